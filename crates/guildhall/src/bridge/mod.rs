//! MCP on standard input and output, for hosts that only start processes: a bridge to a running gateway.
//!
//! A line from the host → [`message`] (is it a request, of which era) → [`upstream`] (one POST) → lines to the host.
//! Requests run side by side; what must keep its place (the handshake, notifications, the host's own answers) is sent
//! before the next line is read. What the bridge does not need to know passes through unread. For clients that open
//! sessions, [`session`] keeps the session and opens a new one when the hall has lost it.
//!
//! A request is always answered: by the hall, or by an error that says why not. Standard output is protocol alone.

mod line;
mod message;
mod session;
#[cfg(test)]
mod tests;
mod upstream;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::StreamExt;
use guildhall_guard::Secret;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    sync::{Mutex, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use url::Url;

use self::{
    line::{Line, Lines},
    message::{Kind, Message, answers, error_line},
    session::Session,
    upstream::{Reply, Trouble, Upstream},
};
use crate::failure::Failure;

/// More than a host asks at once; then its next line waits.
const IN_FLIGHT_MAX: usize = 256;
/// Lines on their way to a host that is slow to read.
const OUTPUT_BOUND: usize = 256;
/// The host has gone; what it asked for may still have an effect, but not for ever.
const DRAIN_TIME: Duration = Duration::from_secs(30);
/// A courtesy that may not hold up the end.
const GOODBYE_TIME: Duration = Duration::from_secs(2);
/// How often an interrupted answer is asked for again.
const RESUMES_MAX: u32 = 5;
/// Where the hall says nothing else.
const RESUME_AFTER: Duration = Duration::from_secs(1);

struct Bridge {
    upstream: Upstream,
    session: Session,
    out: mpsc::Sender<String>,
    /// Requests without an answer, by the text of their id.
    in_flight: Mutex<HashMap<String, InFlight>>,
}

struct InFlight {
    task: AbortHandle,
    /// Streams that end only when the host ends them.
    endless: bool,
}

/// Runs until `input` ends or `stop` is cancelled.
pub(crate) async fn run(
    endpoint: Url,
    token: Option<Secret>,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin + Send + 'static,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let (out, lines) = mpsc::channel(OUTPUT_BOUND);
    let writer = tokio::spawn(write(lines, output));
    let bridge = Arc::new(Bridge {
        upstream: Upstream::new(endpoint, token)?,
        session: Session::default(),
        out: out.clone(),
        in_flight: Mutex::default(),
    });
    let mut requests = JoinSet::new();
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut input = Lines::new(BufReader::new(input));
    loop {
        let line = tokio::select! {
            line = input.next() => line,
            () = stop.cancelled() => None,
            // Nobody reads the answers any more.
            () = out.closed() => None,
        };
        while requests.try_join_next().is_some() {}
        match line {
            None => break,
            Some(Line::TooLong) => {
                bridge.say(error_line(&Value::Null, -32600, "a message is 16 MiB at most", None)).await
            }
            Some(Line::Text(text)) => bridge.clone().take(text, &mut requests, &places).await,
        }
    }
    bridge.end(requests, &stop).await;
    drop((bridge, out));
    // The writer ends once nobody can send it anything more.
    let _ = timeout(GOODBYE_TIME, writer).await;
    Ok(())
}

async fn write(mut lines: mpsc::Receiver<String>, mut output: impl AsyncWrite + Unpin) {
    while let Some(line) = lines.recv().await {
        let written = async {
            output.write_all(line.as_bytes()).await?;
            output.write_all(b"\n").await?;
            output.flush().await
        };
        if let Err(error) = written.await {
            tracing::debug!(%error, "the host reads no more");
            return;
        }
    }
}

impl Bridge {
    async fn take(self: Arc<Self>, text: String, requests: &mut JoinSet<()>, places: &Arc<Semaphore>) {
        let message = match Message::read(text) {
            Ok(message) => message,
            Err(why) => return self.say(error_line(&Value::Null, -32700, &why, None)).await,
        };
        match message.kind {
            Kind::Initialize => self.exchange(&message).await,
            Kind::Request | Kind::Batch => {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let (bridge, keys) = (self.clone(), message.ids.iter().map(Value::to_string).collect::<Vec<_>>());
                let endless = message.method.as_deref() == Some("subscriptions/listen");
                // Held until the task is known, so that it cannot be done before.
                let mut in_flight = self.in_flight.lock().await;
                let task = requests.spawn(async move {
                    let _place = place;
                    bridge.exchange(&message).await;
                    bridge.forget(&message.ids).await;
                });
                in_flight.extend(keys.into_iter().map(|key| (key, InFlight { task: task.clone(), endless })));
            }
            Kind::Cancelled => self.cancel(&message).await,
            Kind::Initialized => {
                self.exchange(&message).await;
                self.listen().await;
            }
            Kind::Other => self.exchange(&message).await,
        }
    }

    /// Closing the stream is what cancels for clients of today; earlier ones tell the hall besides.
    async fn cancel(&self, message: &Message) {
        if let Some(id) = &message.cancels
            && let Some(request) = self.in_flight.lock().await.remove(&id.to_string())
        {
            request.task.abort();
        }
        if self.session.now().await.id.is_some() {
            self.exchange(message).await;
        }
    }

    async fn forget(&self, ids: &[Value]) {
        let mut in_flight = self.in_flight.lock().await;
        for id in ids {
            in_flight.remove(&id.to_string());
        }
    }

    /// Sends a message and passes on what comes back; every id it asks under is answered.
    async fn exchange(&self, message: &Message) {
        let mut open = message.ids.clone();
        let Err(trouble) = self.converse(message, &mut open).await else { return };
        if open.is_empty() {
            tracing::warn!("{}: {}", message.method.as_deref().unwrap_or("an answer of the host"), trouble.message);
        }
        for id in &open {
            self.say(trouble.line(id)).await;
        }
    }

    /// `open`: the ids without an answer as yet.
    async fn converse(&self, message: &Message, open: &mut Vec<Value>) -> Result<(), Trouble> {
        let session = self.session.now().await;
        let reply = match self.upstream.post(message, &session).await? {
            Reply::SessionLost => {
                // Nothing of the request took effect: the hall knew no session to do it in.
                self.reopen(session.number).await?;
                self.upstream.post(message, &self.session.now().await).await?
            }
            reply => reply,
        };
        match reply {
            Reply::SessionLost => Err(Trouble::of_the_bridge("the hall has lost this session, and the new one too")),
            Reply::Nothing if open.is_empty() => Ok(()),
            Reply::Nothing => Err(Trouble::of_the_bridge("the hall took the request and sent no answer")),
            Reply::One { text, session_id } => {
                if message.kind == Kind::Initialize {
                    self.session.opened(message, session_id, &text).await;
                }
                self.pass_on(text, open).await;
                if open.is_empty() {
                    Ok(())
                } else {
                    Err(Trouble::of_the_bridge("the hall's answer is to something else"))
                }
            }
            Reply::Many { events, session_id } => self.pass_on_all(events, message, session_id, open).await,
        }
    }

    /// A stream that breaks off is gone on with where it broke, if the hall numbers its events.
    async fn pass_on_all(
        &self,
        mut events: upstream::Events,
        message: &Message,
        session_id: Option<String>,
        open: &mut Vec<Value>,
    ) -> Result<(), Trouble> {
        let (mut last_id, mut wait) = (None, RESUME_AFTER);
        for _ in 0..=RESUMES_MAX {
            while let Some(Ok(event)) = events.next().await {
                wait = event.retry.map_or(wait, Duration::from_millis);
                last_id = event.id.or(last_id);
                let Some(text) = event.data.filter(|text| !text.is_empty()) else { continue };
                if message.kind == Kind::Initialize && open.iter().any(|id| answers(&text, id)) {
                    self.session.opened(message, session_id.clone(), &text).await;
                }
                self.pass_on(text, open).await;
            }
            if open.is_empty() {
                return Ok(());
            }
            let (Some(id), session) = (&last_id, self.session.now().await) else { break };
            if session.id.is_none() || message.modern.is_some() {
                break;
            }
            tokio::time::sleep(wait).await;
            events = self.upstream.listen(&session, Some(id)).await?;
        }
        Err(Trouble::of_the_bridge("the hall's answer broke off; whether the request took effect is not known"))
    }

    async fn pass_on(&self, text: String, open: &mut Vec<Value>) {
        open.retain(|id| !answers(&text, id));
        self.say(line::one_line(text)).await;
    }

    async fn say(&self, line: String) {
        // A host that reads no more is noticed where its lines are read.
        let _ = self.out.send(line).await;
    }

    /// Opens a new session in place of the one with this number, unless that has been done.
    async fn reopen(&self, number: u64) -> Result<(), Trouble> {
        let mut listening = self.session.reopening().await;
        if self.session.now().await.number != number {
            return Ok(());
        }
        tracing::info!("the hall does not know this session any more; opening a new one");
        let Some(initialize) = self.session.remembered().await else {
            return Err(Trouble::of_the_bridge("the hall knows no such session; send initialize first"));
        };
        self.session.closed().await;
        match self.upstream.post(&initialize, &self.session.now().await).await? {
            Reply::One { text, session_id } => self.session.opened(&initialize, session_id, &text).await,
            Reply::Many { mut events, session_id } => {
                while let Some(Ok(event)) = events.next().await {
                    let Some(text) = event.data else { continue };
                    if initialize.ids.iter().any(|id| answers(&text, id)) {
                        self.session.opened(&initialize, session_id, &text).await;
                        break;
                    }
                }
            }
            Reply::Nothing | Reply::SessionLost => {}
        }
        let session = self.session.now().await;
        if session.id.is_none() {
            return Err(Trouble::of_the_bridge("the hall opened no new session"));
        }
        self.upstream.post(&Message::initialized(), &session).await?;
        if let Some(task) = listening.take() {
            task.abort();
            *listening = Some(self.follow());
        }
        Ok(())
    }

    /// Opens the stream of what the hall says by itself.
    async fn listen(&self) {
        let mut listening = self.session.reopening().await;
        if listening.is_none() && self.session.now().await.id.is_some() {
            *listening = Some(self.follow());
        }
    }

    fn follow(&self) -> AbortHandle {
        let (upstream, session, out) = (self.upstream.clone(), self.session.clone(), self.out.clone());
        tokio::spawn(async move {
            let (mut last_id, mut wait): (Option<String>, _) = (None, RESUME_AFTER);
            while !out.is_closed() {
                match upstream.listen(&session.now().await, last_id.as_deref()).await {
                    Ok(mut events) => {
                        while let Some(Ok(event)) = events.next().await {
                            wait = event.retry.map_or(wait, Duration::from_millis);
                            last_id = event.id.or(last_id);
                            if let Some(text) = event.data.filter(|text| !text.is_empty()) {
                                let _ = out.send(line::one_line(text)).await;
                            }
                        }
                    }
                    // A lost session is opened anew by the next request.
                    Err(trouble) if trouble.is_refusal() => return tracing::debug!("no stream: {}", trouble.message),
                    Err(trouble) => tracing::debug!("the stream is interrupted: {}", trouble.message),
                }
                tokio::time::sleep(wait).await;
            }
        })
        .abort_handle()
    }

    /// Lets what is in flight finish, then says goodbye.
    async fn end(&self, mut requests: JoinSet<()>, stop: &CancellationToken) {
        for request in self.in_flight.lock().await.values().filter(|request| request.endless) {
            request.task.abort();
        }
        let drained = async { while requests.join_next().await.is_some() {} };
        tokio::select! {
            _ = timeout(DRAIN_TIME, drained) => {}
            () = stop.cancelled() => {}
            () = self.out.closed() => {}
        }
        requests.abort_all();
        if let Some(task) = self.session.reopening().await.take() {
            task.abort();
        }
        let session = self.session.now().await;
        if session.id.is_some() {
            let _ = timeout(GOODBYE_TIME, self.upstream.end(&session)).await;
        }
    }
}
