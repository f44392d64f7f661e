//! The session that a client of an earlier revision has with the hall, and what is needed to open it anew.

use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::AbortHandle;

use super::message::{Kind, Message};

/// A session at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Now {
    /// As the hall names it; `None`: there is none, or the hall keeps none for this client.
    pub(super) id: Option<String>,
    /// The revision that was agreed upon.
    pub(super) version: Option<String>,
    /// How many sessions were opened, so that of several requests that miss one only the first opens another.
    pub(super) number: u64,
}

#[derive(Clone, Default)]
pub(super) struct Session(Arc<Shared>);

#[derive(Default)]
struct Shared {
    now: Mutex<Now>,
    /// The handshake, to be repeated as the client said it.
    initialize: Mutex<Option<String>>,
    /// The task that hears what the hall says by itself. Whoever holds it may open the session anew.
    listening: Mutex<Option<AbortHandle>>,
}

#[derive(Deserialize)]
struct Answer {
    result: Option<Agreed>,
}

#[derive(Deserialize)]
struct Agreed {
    #[serde(rename = "protocolVersion")]
    version: String,
}

impl Session {
    pub(super) async fn now(&self) -> Now {
        self.0.now.lock().await.clone()
    }

    /// `answer`: to the handshake. A refusal opens nothing.
    pub(super) async fn opened(&self, initialize: &Message, id: Option<String>, answer: &str) {
        let Some(agreed) = serde_json::from_str::<Answer>(answer).ok().and_then(|answer| answer.result) else { return };
        let mut now = self.0.now.lock().await;
        *now = Now { id, version: Some(agreed.version), number: now.number + 1 };
        *self.0.initialize.lock().await = Some(initialize.text.clone());
    }

    pub(super) async fn closed(&self) {
        let mut now = self.0.now.lock().await;
        (now.id, now.version) = (None, None);
    }

    pub(super) async fn remembered(&self) -> Option<Message> {
        let text = self.0.initialize.lock().await.clone()?;
        Message::read(text).ok().filter(|message| message.kind == Kind::Initialize)
    }

    pub(super) async fn reopening(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.0.listening.lock().await
    }
}
