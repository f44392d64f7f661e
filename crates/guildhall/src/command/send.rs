//! `guildhall send`: a message from the command line.

use std::io::Read as _;

use clap::Args;
use guildhall_domain::{
    AgentId, PublicKey,
    mail::{Body, Recipient},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    failure::Failure,
    hall::{Hall, HallArgs},
    screen, sealed,
};

/// Sends a message; done once it is safe on disk.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  guildhall send worker-1 \"the build is red\" --from me\n  \
                        guildhall send role:reviewer '{\"pr\": 17}' --json-body --priority high\n  \
                        git diff | guildhall send pool:reviewers - --key review-17\n  \
                        guildhall send worker-1 \"only for you\" --seal")]
pub(super) struct Send {
    /// An agent's id, ALL, role:<role>, capability:<capability>, pool:<pool> or topic:<topic>
    #[arg(value_name = "TO")]
    to: Recipient,
    /// What to say; - reads it from standard input
    #[arg(value_name = "MESSAGE")]
    message: String,
    /// In an open hall: the agent that speaks
    #[arg(long, value_name = "ID")]
    from: Option<AgentId>,
    /// The message is JSON, not text
    #[arg(long)]
    json_body: bool,
    /// One word for what it is: message, ping, task_proposal, …
    #[arg(long = "type", value_name = "WORD")]
    kind: Option<String>,
    /// critical, high, normal or low
    #[arg(long)]
    priority: Option<String>,
    /// Sent again with the same key within a day, it is the same message
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The message this answers
    #[arg(long, value_name = "MESSAGE_ID")]
    reply_to: Option<String>,
    /// The conversation it belongs to
    #[arg(long, value_name = "ID")]
    conversation: Option<String>,
    /// How long it may wait: "90s", "2h"; then it becomes a dead letter
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    expires: Option<std::time::Duration>,
    /// Seal it for the receiver's published key, so that the hall cannot read it
    #[arg(long)]
    seal: bool,
    /// For scripts: the receipt as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hall: HallArgs,
}

#[derive(Deserialize)]
struct Receiver {
    public_key: Option<PublicKey>,
}

/// As the hall takes it. The message goes letter for letter.
#[derive(Serialize)]
struct Sent {
    to: Recipient,
    message: Body,
    #[serde(flatten)]
    said: Said,
}

#[derive(Serialize)]
struct Said {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<AgentId>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u128>,
}

impl Send {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let hall = self.hall.hall_for(self.from.as_ref(), "--from")?;
        let said = self.said()?;
        let message = if self.seal { self.sealed(&hall, &said).await? } else { said };
        let sent = Sent {
            to: self.to,
            message,
            said: Said {
                from: self.from,
                kind: self.kind,
                priority: self.priority,
                idempotency_key: self.key,
                reply_to: self.reply_to,
                conversation_id: self.conversation,
                expires_in_ms: self.expires.map(|time| time.as_millis()),
            },
        };
        let receipt: Value = hall.post(&["api", "v1", "messages"], &sent).await?;
        if self.json {
            return screen::say_json(&receipt);
        }
        let id = receipt["message_id"].as_str().unwrap_or_default();
        match receipt["recipients"].as_u64() {
            Some(1) => screen::say(format!("sent: {id}")),
            recipients => screen::say(format!("sent to {} mailboxes: {id}", recipients.unwrap_or_default())),
        }
    }

    fn said(&self) -> Result<Body, Failure> {
        let text = if self.message == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Failure::new(format!("standard input is no text: {error}")))?;
            text
        } else {
            self.message.clone()
        };
        if self.json_body { Ok(Body::from_text(text)?) } else { Ok(Body::from_value(&text)?) }
    }

    async fn sealed(&self, hall: &Hall, said: &Body) -> Result<Body, Failure> {
        let Recipient::Agent(agent) = &self.to else {
            return Err(Failure::new("--seal needs one agent: each receiver has a key of its own"));
        };
        let receiver: Receiver = hall.get(&["api", "v1", "agents", agent.as_str()], &[]).await?;
        let key = receiver.public_key.ok_or_else(|| {
            Failure::new(format!("{agent} has published no key; it can with `guildhall keys new {agent}`"))
        })?;
        Ok(Body::from_value(&sealed::seal(said.as_text().as_bytes(), agent, &key)?)?)
    }
}
