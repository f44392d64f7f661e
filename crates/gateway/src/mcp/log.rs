//! Log messages to a client that asked for them: what went wrong within the hall at one of its calls.
#![expect(deprecated, reason = "clients before 2026-07-28 ask for a level, later ones with each request")]

use guildhall_domain::{Error, ErrorCode};
use parking_lot::Mutex;
use rmcp::{
    RoleServer,
    model::{LoggingLevel, LoggingMessageNotificationParam},
    service::RequestContext,
};

use crate::error;

/// What one client wants to hear.
#[derive(Default)]
pub(super) struct Log {
    /// Nothing is sent before a session has asked.
    level: Mutex<Option<LoggingLevel>>,
}

impl Log {
    pub(super) fn set_level(&self, level: LoggingLevel) {
        *self.level.lock() = Some(level);
    }

    pub(super) async fn tool_failed(&self, context: &RequestContext<RoleServer>, tool: &str, failure: &Error) {
        let level = match failure.code {
            ErrorCode::Internal => LoggingLevel::Error,
            ErrorCode::Unavailable | ErrorCode::Timeout | ErrorCode::CircuitOpen => LoggingLevel::Warning,
            // The caller's own mistakes stand in the result, where it reads them.
            _ => return,
        };
        let wanted = context.meta.log_level().or(*self.level.lock());
        if wanted.is_none_or(|wanted| (level as u8) < wanted as u8) {
            return;
        }
        let data = serde_json::json!({"tool": tool, "failure": error::body(failure)});
        let message = LoggingMessageNotificationParam::new(level, data).with_logger("guildhall");
        // A client that is gone misses nothing it could still use.
        let _ = context.peer.notify_logging_message(message).await;
    }
}
