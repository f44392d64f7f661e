//! What few sends write, one by one: to whom a message to many goes, requests, and breakers that let one through.

use std::future::Future;

use guildhall_domain::ports::mail_store::Addressees;
use sqlx::{PgConnection, SqliteConnection};

use super::plan::{Accepting, Asked, Trial};
use crate::{failure::Failure, row::json};

const ADD_WIDE: &str = "INSERT INTO wide_messages
        (message_id, number, tenant, sender, priority, expires_at, members, underway)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
const BEGIN_PROGRESS: &str = "INSERT INTO wide_progress (message_id, number, next) VALUES ($1, $2, 0)";
const ADD_REQUEST: &str = "INSERT INTO requests
        (message_id, tenant, sender, sort, name, asked_at, deadline, waits, state)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)";
const LET_THROUGH: &str = "UPDATE breakers SET open_until = $4 WHERE tenant = $1 AND sort = $2 AND name = $3";

pub(crate) trait SeldomTables: Send {
    /// Does nothing for a message to one.
    fn add_wide(&mut self, message: &Accepting<'_>, number: i64) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Does nothing for a message that is no request.
    fn add_request(&mut self, message: &Accepting<'_>) -> impl Future<Output = Result<(), Failure>> + Send;
    fn let_through(&mut self, trial: &Trial<'_>) -> impl Future<Output = Result<(), Failure>> + Send;
}

macro_rules! seldom_tables {
    ($connection:ty) => {
        impl SeldomTables for $connection {
            async fn add_wide(&mut self, message: &Accepting<'_>, number: i64) -> Result<(), Failure> {
                let Accepting { tenant, parcel, .. } = message;
                let Addressees::Many(agents) = &parcel.to else { return Ok(()) };
                let add = sqlx::query(ADD_WIDE)
                    .bind(&parcel.message_id[..])
                    .bind(number)
                    .bind(&***tenant)
                    .bind(&*parcel.sender)
                    .bind(parcel.priority)
                    .bind(parcel.expires_at)
                    .bind(json(agents)?)
                    .bind(parcel.is_underway());
                add.execute(&mut *self).await?;
                if parcel.is_underway() {
                    sqlx::query(BEGIN_PROGRESS).bind(&parcel.message_id[..]).bind(number).execute(self).await?;
                }
                Ok(())
            }

            async fn add_request(&mut self, message: &Accepting<'_>) -> Result<(), Failure> {
                let Accepting { tenant, parcel, .. } = message;
                let (Some(terms), Some(asked)) = (&parcel.request, parcel.asks()) else { return Ok(()) };
                let add = sqlx::query(ADD_REQUEST)
                    .bind(&parcel.message_id[..])
                    .bind(&***tenant)
                    .bind(&*parcel.sender)
                    .bind(asked.sort)
                    .bind(asked.name)
                    .bind(parcel.sent_at)
                    .bind(terms.deadline.as_millis())
                    .bind(terms.waits);
                add.execute(self).await?;
                Ok(())
            }

            async fn let_through(&mut self, trial: &Trial<'_>) -> Result<(), Failure> {
                let Asked { tenant, mailbox } = trial.asked;
                let let_through =
                    sqlx::query(LET_THROUGH).bind(tenant).bind(mailbox.sort).bind(mailbox.name).bind(trial.open_until);
                let_through.execute(self).await?;
                Ok(())
            }
        }
    };
}

seldom_tables!(SqliteConnection);
seldom_tables!(PgConnection);
