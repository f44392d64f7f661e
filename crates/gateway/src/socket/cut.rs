//! Why the hall ends a socket: what its client is told, and with which close code.

use axum::extract::ws::{CloseFrame, Utf8Bytes};
use guildhall_domain::{Error, ErrorCode};

use super::{
    frame::{FRAME_MAX_BYTES, Reference},
    tell,
};

#[derive(Debug, Clone)]
pub(super) enum Cut {
    /// The token has ended or was revoked, or the agent was paused.
    ShutOut(Error),
    /// The agent was removed.
    Left,
    /// The client does not read.
    Slow,
    /// The client answers no pings.
    Silent,
    /// Too many frames in a row that do not fit.
    Nonsense,
    /// A frame larger than any may be.
    TooLarge,
    /// A text frame that is not UTF-8.
    NotText,
    /// The gateway stops.
    Stopping,
}

impl Cut {
    /// The word that figures know it by.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::ShutOut(_) => "shut_out",
            Self::Left => "left",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Nonsense => "nonsense",
            Self::TooLarge => "too_large",
            Self::NotText => "not_text",
            Self::Stopping => "stopping",
        }
    }

    /// 4000 and above are the application's own; these end like the HTTP status of the same fault.
    const fn code(&self) -> u16 {
        match self {
            Self::ShutOut(error) => match error.code {
                ErrorCode::PermissionDenied => 4403,
                _ => 4401,
            },
            Self::Left => 4404,
            Self::Slow | Self::Silent => 4408,
            Self::Nonsense => 4400,
            // The protocol's own: "message too big", "invalid payload data".
            Self::TooLarge => 1009,
            Self::NotText => 1007,
            // "Service restart": come again.
            Self::Stopping => 1012,
        }
    }

    fn error(&self) -> Error {
        match self {
            Self::ShutOut(error) => error.clone(),
            Self::Left => Error::not_found("the agent was removed from the hall; it can register again"),
            Self::Slow => Error::timeout(
                "the socket was closed: its client did not read; what it did not acknowledge comes again on its next one",
            ),
            Self::Silent => Error::timeout("the socket was closed: its client did not answer two pings"),
            Self::Nonsense => Error::invalid("the socket was closed: too many frames in a row did not fit"),
            Self::TooLarge => Error::new(
                ErrorCode::PayloadTooLarge,
                format!("the socket was closed: a frame is at most {FRAME_MAX_BYTES} bytes"),
            ),
            Self::NotText => Error::invalid("the socket was closed: a text frame is UTF-8"),
            Self::Stopping => Error::unavailable("this gateway is stopping; open the socket again"),
        }
    }

    /// The last frame, and the close frame after it.
    pub(super) fn farewell(&self) -> (Utf8Bytes, CloseFrame) {
        let error = self.error();
        let text = tell::error(&Reference::default(), &error);
        // A close frame's reason has room for 123 bytes; the error before it says all.
        let reason: String = error.code.as_str().into();
        (text, CloseFrame { code: self.code(), reason: reason.into() })
    }
}
