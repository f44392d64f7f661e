//! The core.
use std::sync::Arc;
use crate::desk::Desk;
pub struct MailService {
    pub(crate) desk: Arc<Desk>,
}
