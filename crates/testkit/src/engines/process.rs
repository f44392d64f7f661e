//! A program under test: started in a folder of its own, stopped in every way there is, gone when the test is.

use std::{
    fs::{self, File},
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::process::{Pid, kill_process};

use super::folder;

pub use rustix::process::Signal;

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `look` gives something, or panics with `what` was waited for.
pub async fn eventually<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// One program, which may be stopped and started again.
///
/// What is done to it is done to its children too. The kernel kills it when the test process dies, however that dies.
pub struct Process {
    name: String,
    folder: PathBuf,
    spec: Spec,
    child: Mutex<Option<Child>>,
}

/// How to start it, as often as need be.
#[derive(Debug, Clone)]
struct Spec {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Options of `setpriv`, which stands before the program.
    privileges: Vec<String>,
    /// A folder that is a disk of its own, of so many MiB, as long as the program runs.
    disk: Option<(PathBuf, u32)>,
    /// What it is sent when the test process dies.
    farewell: &'static str,
    log: PathBuf,
}

impl Process {
    /// A process that is not started yet, with an empty folder of its own.
    pub fn new(name: &str, program: PathBuf) -> Self {
        let folder = new_folder(name);
        let spec = Spec {
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            privileges: Vec::new(),
            disk: None,
            farewell: "KILL",
            log: folder.join("log"),
        };
        Self { name: name.into(), folder, spec, child: Mutex::new(None) }
    }

    pub fn arguments<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.spec.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub fn environment<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.spec.environment.extend(variables.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// The folder and what is in it lie on a small disk that nobody else sees, so that it can be full. Gone with the
    /// program. Needs root, or a kernel that lets users mount in namespaces of their own.
    pub fn on_small_disk(mut self, folder: PathBuf, mebibytes: u32) -> Self {
        self.spec.disk = Some((folder, mebibytes));
        self
    }

    /// Its small disk, as seen from outside while it runs.
    fn small_disk(&self) -> PathBuf {
        let (folder, _) = self.spec.disk.as_ref().expect("it was given a small disk");
        let root = format!("/proc/{}/root", self.id().expect("the disk is there while the program runs"));
        Path::new(&root).join(folder.strip_prefix("/").expect("folders are absolute"))
    }

    /// Leaves no byte free on its small disk.
    pub fn fill_disk(&self) {
        let mut filling =
            File::options().create(true).append(true).open(self.small_disk().join("filling")).expect("room for a name");
        for size in [1 << 20, 4096, 1] {
            let bytes = vec![b'x'; size];
            while io::Write::write_all(&mut filling, &bytes).is_ok() {}
        }
    }

    pub fn free_disk(&self) {
        fs::remove_file(self.small_disk().join("filling")).expect("the disk was filled");
    }

    /// Runs as the user `nobody`, for a program that refuses root. Only root can ask for it.
    pub(super) fn by_nobody(mut self) -> Self {
        let nobody = ["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"];
        let reaches = Command::new("setpriv").args(nobody).args(["--", "test", "-r"]).arg(&self.folder).status();
        self.spec.privileges = nobody.map(String::from).into();
        if !reaches.is_ok_and(|status| status.success()) {
            // A checkout in a folder of root's alone (`mktemp -d`): nobody gets through by root's own right.
            let right = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"];
            self.spec.privileges.extend(right.map(String::from));
        }
        self
    }

    /// Ends it by SIGQUIT when the test process is over: for a program that then collects its own children, which
    /// would stay as zombies on a machine whose init process does not collect orphans.
    pub(super) fn quits(mut self) -> Self {
        self.spec.farewell = "QUIT";
        self
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it has written to standard output and standard error, over all its lives.
    pub fn log(&self) -> String {
        fs::read(&self.spec.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Starts it. Does not wait for it to be ready.
    pub fn start(&self) {
        let mut child = self.child.lock();
        assert!(child.is_none(), "{} is running", self.name);
        *child = Some(SPAWNER.spawn(self.spec.clone()).unwrap_or_else(|error| {
            panic!("{} does not start: {error} ({})", self.name, self.spec.program.display());
        }));
    }

    /// Waits until `ready` gives something; panics with its log when it ends before, or takes more than 30 s.
    pub async fn ready<T>(&self, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
        let within = Duration::from_secs(30);
        let waited = tokio::time::timeout(within, async {
            loop {
                if let Some(found) = ready().await {
                    return Ok(found);
                }
                if let Some(status) = self.exited() {
                    return Err(status);
                }
                tokio::time::sleep(POLL).await;
            }
        });
        match waited.await {
            Ok(Ok(found)) => found,
            Ok(Err(status)) => panic!("{} ended at once ({status}); its log:\n{}", self.name, self.log()),
            Err(_) => panic!("{} is not ready within {within:?}; its log:\n{}", self.name, self.log()),
        }
    }

    /// Its process id; `None` for a program that was not started or has been killed.
    pub fn id(&self) -> Option<u32> {
        self.child.lock().as_ref().map(Child::id)
    }

    pub fn is_running(&self) -> bool {
        self.living().is_some()
    }

    /// How it ended, when it did by itself.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child.lock().as_mut().and_then(|child| child.try_wait().expect("a child can be waited for"))
    }

    /// To it and to all its children.
    pub fn signal(&self, signal: Signal) {
        for process in self.tree() {
            // It may have ended by itself a moment ago.
            let _ = kill_process(process, signal);
        }
    }

    /// `None` when it has ended: its process id may be someone else's by now.
    fn living(&self) -> Option<Pid> {
        let mut child = self.child.lock();
        let child = child.as_mut()?;
        let ended = child.try_wait().expect("a child can be waited for");
        ended.is_none().then(|| Pid::from_child(child))
    }

    /// Itself, then its children, then theirs: none for a program that does not run.
    fn tree(&self) -> Vec<Pid> {
        let mut tree: Vec<Pid> = self.living().into_iter().collect();
        let mut looked_at = 0;
        while let Some(parent) = tree.get(looked_at).map(|pid| pid.as_raw_pid()) {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
            tree.extend(children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
            looked_at += 1;
        }
        tree
    }

    /// `kill -9`, for it and its children. Waits until all are gone.
    pub fn kill(&self) {
        // Stopped first, so that none is born while we look.
        self.signal(Signal::STOP);
        let tree = self.tree();
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.lock().take() {
            child.wait().expect("a child can be waited for");
        }
        for orphan in tree.iter().skip(1).map(|pid| pid.as_raw_pid()) {
            // An orphan's exit is collected by the init process, or by nobody: a dead one has no command line.
            while fs::read(format!("/proc/{orphan}/cmdline")).is_ok_and(|line| !line.is_empty()) {
                std::thread::sleep(POLL);
            }
        }
    }

    /// Stops it in its tracks: connections stay open and nobody answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end, as a person or an orchestrator does, and gives the exit code.
    pub async fn terminate(&self, within: Duration) -> Result<i32, String> {
        self.signal(Signal::TERM);
        self.ended(within).await
    }

    /// Asks it to end at once, and kills it when it has not after 5 s.
    pub(super) fn quit(&self) {
        self.signal(Signal::CONT);
        if let Some(process) = self.living() {
            // It may have ended by itself a moment ago.
            let _ = kill_process(process, Signal::QUIT);
        }
        let patience = Instant::now() + Duration::from_secs(5);
        while self.is_running() && Instant::now() < patience {
            std::thread::sleep(POLL);
        }
        self.kill();
    }

    /// Waits for it to end by itself.
    pub async fn ended(&self, within: Duration) -> Result<i32, String> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.exited() {
                self.child.lock().take();
                return status
                    .code()
                    .ok_or_else(|| format!("{} was killed by signal {:?}", self.name, status.signal()));
            }
            if Instant::now() > deadline {
                return Err(format!("{} did not end within {within:?}; its log:\n{}", self.name, self.log()));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            // Shown by the test harness beside the failure.
            let log = self.log();
            let tail = log.char_indices().rev().nth(LOG_TAIL_CHARS).map_or(0, |(at, _)| at);
            eprintln!("---- the end of the log of {} ----\n{}", self.name, &log[tail..]);
        }
        // What cannot be removed now is removed by the next test process.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Enough to see why, not so much as to hide the failure itself.
const LOG_TAIL_CHARS: usize = 8_000;

/// An empty folder, removed at the latest by the first test process that runs after this one has died.
fn new_folder(name: &str) -> PathBuf {
    static SWEPT: LazyLock<PathBuf> = LazyLock::new(|| {
        let runs = folder().join("run");
        for run in fs::read_dir(&runs).into_iter().flatten().flatten() {
            let alive = Path::new("/proc").join(run.file_name()).exists();
            if !alive {
                let _ = fs::remove_dir_all(run.path());
            }
        }
        runs.join(std::process::id().to_string())
    });
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = SWEPT.join(format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&folder).expect("target/engines can be written");
    folder.canonicalize().expect("it has just been made")
}

/// Starts every process, from a thread that lives as long as this process: the kernel's signal at the parent's
/// death comes when the *thread* that started the child ends, and a test's thread ends with the test.
struct Spawner(Mutex<mpsc::SyncSender<Order>>);

type Order = (Spec, mpsc::SyncSender<io::Result<Child>>);

static SPAWNER: LazyLock<Spawner> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::sync_channel::<Order>(1);
    std::thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for (spec, answer) in inbox {
                // Whoever asked waits for the answer.
                let _ = answer.send(spec.spawn());
            }
        })
        .expect("a thread can be started");
    Spawner(Mutex::new(orders))
});

impl Spawner {
    fn spawn(&self, spec: Spec) -> io::Result<Child> {
        let (answer, started) = mpsc::sync_channel(1);
        self.0.lock().send((spec, answer)).expect("the spawner lives as long as the process");
        started.recv().expect("the spawner answers every order")
    }
}

impl Spec {
    fn spawn(self) -> io::Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = match &self.disk {
            None => Command::new("setpriv"),
            Some((folder, mebibytes)) => {
                let mut command = Command::new("unshare");
                if !rustix::process::geteuid().is_root() {
                    command.args(["--user", "--map-root-user"]);
                }
                // What is in the folder already moves onto the disk.
                let mount = "mkdir -p \"$0.disk\" && mount -t tmpfs -o size=$1m tmpfs \"$0.disk\" && cp -a \"$0/.\" \"$0.disk\" \
                             && chown --reference=\"$0\" \"$0.disk\" && chmod --reference=\"$0\" \"$0.disk\" \
                             && mount --bind \"$0.disk\" \"$0\" && shift && exec setpriv \"$@\"";
                command.args(["--mount", "sh", "-c", mount]).arg(folder).arg(mebibytes.to_string());
                command
            }
        };
        command
            .args(["--pdeathsig", self.farewell])
            .args(&self.privileges)
            .arg("--")
            .arg(&self.program)
            .args(&self.arguments)
            // What the shell of whoever runs the tests has set is no part of them.
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(self.environment)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    }
}
