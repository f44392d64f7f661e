//! Taking back deliveries that nobody holds: what was asked, and is wanted no more.

use std::future::Future;

use guildhall_domain::{
    TenantId, Timestamp,
    mail::{DeliveryState, Mailbox, MessageId},
};
use sqlx::{PgConnection, SqliteConnection};

use crate::{failure::Failure, row::bytes};

/// A message, and the one mailbox that it is for.
pub(crate) type Asked = (TenantId, Mailbox, MessageId);

pub(crate) trait Withdraw: Send {
    /// `asked`: requests by their messages. Gives those that nobody had taken: now nobody will.
    fn withdraw(
        &mut self,
        asked: &[Asked],
        reason: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<MessageId>, Failure>> + Send;
}

impl Withdraw for SqliteConnection {
    async fn withdraw(&mut self, asked: &[Asked], reason: &str, now: Timestamp) -> Result<Vec<MessageId>, Failure> {
        let mut withdrawn = Vec::new();
        for (_, _, message) in asked {
            let withdraw = sqlx::query_scalar(
                "UPDATE deliveries SET open = FALSE, state = $2, settled_at = $3, reason = $4, rests_until = NULL
                 FROM (SELECT mailbox, priority, number FROM messages WHERE message_id = $1) AS asked
                 WHERE deliveries.mailbox = asked.mailbox AND deliveries.open
                     AND deliveries.priority = asked.priority AND deliveries.number = asked.number
                     AND deliveries.state = $5
                 RETURNING deliveries.mailbox",
            )
            .bind(message.bytes().to_vec())
            .bind(i16::from(DeliveryState::Withdrawn.rank()))
            .bind(now.as_millis())
            .bind(reason)
            .bind(i16::from(DeliveryState::Waiting.rank()));
            let mailbox: Option<i64> = withdraw.fetch_optional(&mut *self).await?;
            let Some(mailbox) = mailbox else { continue };
            let less = sqlx::query("UPDATE mailboxes SET waiting = waiting - 1 WHERE mailbox = $1");
            less.bind(mailbox).execute(&mut *self).await?;
            withdrawn.push(*message);
        }
        Ok(withdrawn)
    }
}

impl Withdraw for PgConnection {
    /// The mailboxes first, in the order in which everyone locks them; none when there is nothing to take back.
    async fn withdraw(&mut self, asked: &[Asked], reason: &str, now: Timestamp) -> Result<Vec<MessageId>, Failure> {
        let tenants: Vec<&str> = asked.iter().map(|(tenant, _, _)| tenant.as_str()).collect();
        let sorts: Vec<&str> = asked.iter().map(|(_, mailbox, _)| mailbox.sort()).collect();
        let names: Vec<&str> = asked.iter().map(|(_, mailbox, _)| mailbox.name()).collect();
        let messages: Vec<Vec<u8>> = asked.iter().map(|(_, _, message)| message.bytes().to_vec()).collect();
        let lock = sqlx::query(
            "SELECT mailbox FROM mailboxes
             WHERE (tenant, sort, name) IN (SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[]))
                 AND mailbox IN (SELECT deliveries.mailbox FROM messages JOIN deliveries
                     ON deliveries.mailbox = messages.mailbox AND deliveries.open
                         AND deliveries.priority = messages.priority AND deliveries.number = messages.number
                     WHERE messages.message_id = ANY($4) AND deliveries.state = $5)
             ORDER BY tenant, sort, name FOR UPDATE",
        )
        .bind(tenants)
        .bind(sorts)
        .bind(names)
        .bind(&messages)
        .bind(i16::from(DeliveryState::Waiting.rank()));
        if lock.execute(&mut *self).await?.rows_affected() == 0 {
            return Ok(Vec::new());
        }
        let withdraw = sqlx::query_scalar(
            "WITH asked AS (
                 SELECT mailbox, priority, number FROM messages WHERE message_id = ANY($1)),
             withdrawn AS (
                 UPDATE deliveries SET open = FALSE, state = $2, settled_at = $3, reason = $4, rests_until = NULL
                 FROM asked
                 WHERE deliveries.mailbox = asked.mailbox AND deliveries.open
                     AND deliveries.priority = asked.priority AND deliveries.number = asked.number
                     AND deliveries.state = $5
                 RETURNING deliveries.mailbox, deliveries.message_id),
             less AS (
                 UPDATE mailboxes SET waiting = waiting - each.withdrawn
                 FROM (SELECT mailbox, COUNT(*) AS withdrawn FROM withdrawn GROUP BY mailbox) AS each
                 WHERE mailboxes.mailbox = each.mailbox)
             SELECT message_id FROM withdrawn",
        )
        .bind(&messages)
        .bind(i16::from(DeliveryState::Withdrawn.rank()))
        .bind(now.as_millis())
        .bind(reason)
        .bind(i16::from(DeliveryState::Waiting.rank()));
        let withdrawn: Vec<Vec<u8>> = withdraw.fetch_all(self).await?;
        withdrawn.iter().map(|message| Ok(MessageId::from_bytes(bytes(message)?))).collect()
    }
}
