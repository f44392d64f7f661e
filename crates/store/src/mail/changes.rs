//! What a transaction does to deliveries: gathered row by row, written at its end with one statement for each table.

use std::collections::BTreeMap;

use guildhall_domain::{Timestamp, mail::DeliveryState};

use super::{
    deliveries::{DeliveryTables, Letter},
    rows::{DeliveryRow, MailboxRow, Place},
};
use crate::failure::Failure;

/// A mailbox as it is left.
#[derive(Debug, Clone)]
pub(crate) struct Moved {
    pub(crate) row: MailboxRow,
    /// How many deliveries more are open; negative when more were settled.
    pub(crate) opened: i64,
}

#[derive(Default)]
pub(crate) struct Changes {
    changed: Vec<DeliveryRow>,
    reopened: Vec<DeliveryRow>,
    letters: Vec<Letter>,
    mailboxes: BTreeMap<i64, Moved>,
}

impl Changes {
    /// A delivery that was open.
    pub(crate) fn put(&mut self, mailbox: &MailboxRow, row: DeliveryRow, now: Timestamp) {
        if !row.open {
            self.moved(mailbox).opened -= 1;
        }
        if row.is(DeliveryState::Dead) {
            let Place { mailbox: number_of, number, .. } = row.place();
            let (tenant, message_id) = (mailbox.tenant.clone(), row.message_id.clone());
            self.letters.push(Letter { tenant, mailbox: number_of, number, message_id, died_at: now.as_millis() });
        }
        self.changed.push(row);
    }

    /// A delivery that was settled, and is open again.
    pub(crate) fn put_reopened(&mut self, mailbox: &MailboxRow, row: DeliveryRow) {
        self.moved(mailbox).opened += 1;
        self.reopened.push(row);
    }

    /// Where the mailbox's round of priorities stands now.
    pub(crate) fn turn(&mut self, mailbox: &MailboxRow, turn: i64) {
        if mailbox.turn != turn {
            self.moved(mailbox).row.turn = turn;
        }
    }

    fn moved(&mut self, mailbox: &MailboxRow) -> &mut Moved {
        self.mailboxes.entry(mailbox.mailbox).or_insert_with(|| Moved { row: mailbox.clone(), opened: 0 })
    }

    pub(crate) async fn write(self, tables: &mut impl DeliveryTables) -> Result<(), Failure> {
        let Self { changed, reopened, letters, mailboxes } = self;
        if !changed.is_empty() {
            tables.put_deliveries(&changed, true).await?;
        }
        if !reopened.is_empty() {
            tables.put_deliveries(&reopened, false).await?;
        }
        if !letters.is_empty() {
            tables.add_letters(&letters).await?;
        }
        if !mailboxes.is_empty() {
            let mailboxes: Vec<Moved> = mailboxes.into_values().collect();
            tables.move_mailboxes(&mailboxes).await?;
        }
        Ok(())
    }
}
