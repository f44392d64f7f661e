//! Accepting mail.

use super::{Stage, letter, send};

pub async fn a_message_is_kept_letter_for_letter(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = letter("ada", "bob");
    assert_eq!(send(&replica, &sent).await, sent.message.message_id);
}
