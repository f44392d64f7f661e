//! How long `guildhall up` takes on an empty directory until `/ready` says yes, and what it then occupies.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Figures, programs::HALL};

/// A hall that is not ready by then will not be.
const GIVE_UP: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// What a fresh process still gives back is not what it occupies.
const SETTLE: Duration = Duration::from_millis(500);

pub(super) fn measure(figures: &mut Figures) -> Result<(), String> {
    let data = Path::new("target/bench/empty");
    let _ = fs::remove_dir_all(data);
    let (http, websocket) = (free_address()?, free_address()?);
    let began = Instant::now();
    let mut hall = Command::new(HALL)
        .args(["up", "--data", "target/bench/empty"])
        .args(["--listen", &http.to_string(), "--ws-listen", &websocket.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{HALL}: {error}"))?;
    let measured = wait_until_ready(http, began).and_then(|ready| Ok((ready, occupied(&mut hall)?)));
    let _ = hall.kill();
    let _ = hall.wait();
    let (ready, resident_mb) = measured?;
    figures.entry("startup.ready_s".into()).or_default().push(ready.as_secs_f64());
    figures.entry("startup.resident_mb".into()).or_default().push(resident_mb);
    Ok(())
}

fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).map_err(|error| error.to_string())
}

fn wait_until_ready(http: SocketAddr, began: Instant) -> Result<Duration, String> {
    while began.elapsed() < GIVE_UP {
        if is_ready(http) {
            return Ok(began.elapsed());
        }
        thread::sleep(LOOK_EVERY);
    }
    Err(format!("{HALL} was not ready after {GIVE_UP:?}"))
}

fn is_ready(http: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(http) else { return false };
    let asked = stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
}

fn occupied(hall: &mut Child) -> Result<f64, String> {
    thread::sleep(SETTLE);
    let status = fs::read_to_string(format!("/proc/{}/status", hall.id())).map_err(|error| error.to_string())?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
        .map(|kib| kib / 1024.0)
        .ok_or_else(|| "the kernel does not say VmRSS".to_owned())
}
