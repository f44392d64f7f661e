//! Dead letters: listing, redriving, purging. A letter is a row beside its delivery, which stays dead when the letter
//! is purged.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use guildhall_domain::{
    AuditEntry, Result, TenantId, Timestamp,
    mail::{
        DeadLetter, DeliveryState, Mailbox, MessageId,
        delivery::{DeadLetterQuery, DeadLetterSelection, TAKE_MAX_BYTES},
    },
};
use sqlx::{Database, FromRow, PgConnection, SqliteConnection};

use super::{
    changes::Changes,
    rows::{MailboxRow, Place},
    take::{TakeTables, Wanted},
};
use crate::{
    agent_store::Tables,
    audit::Scribe,
    engine::{Sql, in_time},
    failure::{Failure, unreadable},
    row::{json, signed},
};

/// Letters that one transaction redrives or purges; more take several.
const LETTERS_MAX: usize = 500;

/// A letter, with what there is to know of its delivery, its message and its mailbox.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct LetterRow {
    mailbox: i64,
    sort: String,
    name: String,
    number: i64,
    message_id: Vec<u8>,
    priority: i16,
    sent_at: i64,
    expires_at: Option<i64>,
    attempts: i64,
    reason: Option<String>,
    died_at: i64,
}

impl LetterRow {
    fn mailbox(&self) -> Result<Mailbox> {
        Mailbox::of(&self.sort, &self.name).map_err(unreadable)
    }

    fn place(&self) -> Place {
        Place { mailbox: self.mailbox, priority: self.priority, number: self.number }
    }

    /// As long as its message might wait at first.
    fn may_wait(&self) -> Option<Duration> {
        let sent_at = Timestamp::from_millis(self.sent_at);
        self.expires_at.map(|at| Timestamp::from_millis(at).since(sent_at))
    }
}

/// `$1` is the tenant, `$2` the limit. Few letters are chosen first: what belongs to them is not searched for more.
macro_rules! letters {
    ($narrowed:literal, $order:literal) => {
        concat!(
            "SELECT letters.mailbox, mailboxes.sort, mailboxes.name, letters.number, letters.message_id,
                 messages.priority, messages.sent_at, messages.expires_at, deliveries.attempts, deliveries.reason,
                 letters.died_at
             FROM (SELECT letters.* FROM dead_letters AS letters WHERE letters.tenant = $1 AND ",
            $narrowed,
            " ORDER BY ",
            $order,
            " LIMIT +$2) AS letters
             JOIN messages ON messages.message_id = letters.message_id
             JOIN deliveries ON deliveries.mailbox = letters.mailbox AND deliveries.open = FALSE
                 AND deliveries.priority = messages.priority AND deliveries.number = letters.number
             JOIN mailboxes ON mailboxes.mailbox = letters.mailbox
             ORDER BY ",
            $order
        )
    };
}

const NEWEST: &str = letters!(
    "(letters.died_at, letters.message_id) < ($3, $4)",
    "letters.died_at DESC, letters.message_id DESC, letters.mailbox"
);
/// The letters of the one mailbox are sorted, not those of all searched.
const NEWEST_IN_MAILBOX: &str = letters!(
    "letters.mailbox = $5 AND letters.number > $6 AND (+letters.died_at, letters.message_id) < ($3, $4)",
    "+letters.died_at DESC, letters.message_id DESC"
);
const NEWEST_OF_MESSAGE: &str = letters!(
    "letters.message_id = $7 AND ($5 IS NULL OR (letters.mailbox = $5 AND letters.number > $6))
         AND (+letters.died_at, letters.message_id) < ($3, $4)",
    "+letters.died_at DESC, letters.mailbox"
);
const DIED_AT_ONCE: &str =
    letters!("letters.died_at = $3 AND letters.message_id = $4 AND letters.mailbox > $5", "letters.mailbox");

const ALL: &str = letters!("(letters.mailbox, letters.number) > ($3, $4)", "letters.mailbox, letters.number");
const IN_MAILBOX: &str = letters!(
    "letters.mailbox = $5 AND letters.number > $6 AND (letters.mailbox, letters.number) > ($3, $4)",
    "letters.number"
);
const OF_MESSAGE: &str = letters!(
    "letters.message_id = $7 AND ($5 IS NULL OR (letters.mailbox = $5 AND letters.number > $6))
         AND (+letters.mailbox, letters.number) > ($3, $4)",
    "+letters.mailbox, letters.number"
);

/// Which letters are looked for: those of one mailbox, of one message, or all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Narrowed {
    /// With the number after which it is its agent's: whoever asks for one mailbox's letters may be its agent, for whom
    /// those of another agent of the same id, before it, are not.
    mailbox: Option<(i64, i64)>,
    message: Option<MessageId>,
}

pub(crate) trait DeadTables: TakeTables {
    /// Newest first, after this one.
    fn newest_letters(
        &mut self,
        tenant: &TenantId,
        narrowed: Narrowed,
        after: (Timestamp, &[u8]),
        limit: usize,
    ) -> impl Future<Output = Result<Vec<LetterRow>, Failure>> + Send;
    /// Of the same message and moment as this one, those that come after it.
    fn letters_at_once(
        &mut self,
        tenant: &TenantId,
        last: &LetterRow,
    ) -> impl Future<Output = Result<Vec<LetterRow>, Failure>> + Send;
    /// In the order of mailbox and number, after these.
    fn letters(
        &mut self,
        tenant: &TenantId,
        narrowed: Narrowed,
        after: (i64, i64),
        limit: usize,
    ) -> impl Future<Output = Result<Vec<LetterRow>, Failure>> + Send;
    /// Takes them away; gives (mailbox, number) of those that were there.
    fn remove_letters(
        &mut self,
        tenant: &TenantId,
        letters: &[Place],
    ) -> impl Future<Output = Result<Vec<(i64, i64)>, Failure>> + Send;
}

macro_rules! dead_tables {
    ($connection:ty, $remove:expr) => {
        impl DeadTables for $connection {
            async fn newest_letters(
                &mut self,
                tenant: &TenantId,
                narrowed: Narrowed,
                (died_at, message): (Timestamp, &[u8]),
                limit: usize,
            ) -> Result<Vec<LetterRow>, Failure> {
                let text = match narrowed {
                    Narrowed { message: Some(_), .. } => NEWEST_OF_MESSAGE,
                    Narrowed { mailbox: Some(_), .. } => NEWEST_IN_MAILBOX,
                    _ => NEWEST,
                };
                let find = sqlx::query_as(text)
                    .bind(tenant.as_str())
                    .bind(signed(limit as u64))
                    .bind(died_at.as_millis())
                    .bind(message);
                let mailbox = narrowed.mailbox.map(|(mailbox, _)| mailbox);
                let since = narrowed.mailbox.map(|(_, since)| since);
                let find = match narrowed {
                    Narrowed { message: Some(message), .. } => {
                        find.bind(mailbox).bind(since).bind(message.bytes().to_vec())
                    }
                    Narrowed { mailbox: Some(_), .. } => find.bind(mailbox).bind(since),
                    _ => find,
                };
                Ok(find.fetch_all(self).await?)
            }

            async fn letters_at_once(
                &mut self,
                tenant: &TenantId,
                last: &LetterRow,
            ) -> Result<Vec<LetterRow>, Failure> {
                let find = sqlx::query_as(DIED_AT_ONCE)
                    .bind(tenant.as_str())
                    .bind(signed(LETTERS_MAX as u64))
                    .bind(last.died_at)
                    .bind(&last.message_id[..])
                    .bind(last.mailbox);
                Ok(find.fetch_all(self).await?)
            }

            async fn letters(
                &mut self,
                tenant: &TenantId,
                narrowed: Narrowed,
                (mailbox, number): (i64, i64),
                limit: usize,
            ) -> Result<Vec<LetterRow>, Failure> {
                let text = match narrowed {
                    Narrowed { message: Some(_), .. } => OF_MESSAGE,
                    Narrowed { mailbox: Some(_), .. } => IN_MAILBOX,
                    _ => ALL,
                };
                let find =
                    sqlx::query_as(text).bind(tenant.as_str()).bind(signed(limit as u64)).bind(mailbox).bind(number);
                let mailbox = narrowed.mailbox.map(|(mailbox, _)| mailbox);
                let since = narrowed.mailbox.map(|(_, since)| since);
                let find = match narrowed {
                    Narrowed { message: Some(message), .. } => {
                        find.bind(mailbox).bind(since).bind(message.bytes().to_vec())
                    }
                    Narrowed { mailbox: Some(_), .. } => find.bind(mailbox).bind(since),
                    _ => find,
                };
                Ok(find.fetch_all(self).await?)
            }

            async fn remove_letters(
                &mut self,
                tenant: &TenantId,
                letters: &[Place],
            ) -> Result<Vec<(i64, i64)>, Failure> {
                $remove(self, tenant, letters).await
            }
        }
    };
}

dead_tables!(SqliteConnection, remove_from_sqlite);
dead_tables!(PgConnection, remove_from_postgres);

async fn remove_from_sqlite(
    tables: &mut SqliteConnection,
    tenant: &TenantId,
    letters: &[Place],
) -> Result<Vec<(i64, i64)>, Failure> {
    let letters: Vec<_> = letters.iter().map(|letter| (letter.mailbox, letter.number)).collect();
    let remove = sqlx::query_as(
        "DELETE FROM dead_letters WHERE tenant = $1
             AND (mailbox, number) IN (SELECT value->>0, value->>1 FROM json_each($2)) RETURNING mailbox, number",
    );
    Ok(remove.bind(tenant.as_str()).bind(json(&letters)?).fetch_all(tables).await?)
}

async fn remove_from_postgres(
    tables: &mut PgConnection,
    tenant: &TenantId,
    letters: &[Place],
) -> Result<Vec<(i64, i64)>, Failure> {
    let mailboxes: Vec<i64> = letters.iter().map(|letter| letter.mailbox).collect();
    let numbers: Vec<i64> = letters.iter().map(|letter| letter.number).collect();
    let remove = sqlx::query_as(
        "DELETE FROM dead_letters WHERE tenant = $1
             AND (mailbox, number) IN (SELECT * FROM UNNEST($2::bigint[], $3::bigint[])) RETURNING mailbox, number",
    );
    Ok(remove.bind(tenant.as_str()).bind(mailboxes).bind(numbers).fetch_all(tables).await?)
}

/// `None` when there is no such mailbox, and so no letter in it.
async fn narrowed(
    tables: &mut impl Tables,
    tenant: &TenantId,
    mailbox: Option<&Mailbox>,
) -> Result<Option<Narrowed>, Failure> {
    let Some(mailbox) = mailbox else { return Ok(Some(Narrowed { mailbox: None, message: None })) };
    let rows = tables.mailboxes(tenant, std::slice::from_ref(mailbox)).await?;
    Ok(rows.first().map(|row| Narrowed { mailbox: Some((row.mailbox, row.since)), message: None }))
}

async fn page(
    tables: &mut impl Tables,
    tenant: &TenantId,
    query: &DeadLetterQuery,
) -> Result<Vec<DeadLetter>, Failure> {
    let Some(narrowed) = narrowed(tables, tenant, query.mailbox.as_ref()).await? else { return Ok(Vec::new()) };
    let narrowed = Narrowed { message: query.message, ..narrowed };
    let (died_at, message) = match query.after {
        Some((died_at, message)) => (died_at, message.bytes().to_vec()),
        None => (Timestamp::from_millis(i64::MAX), Vec::new()),
    };
    let mut letters: Vec<LetterRow> = tables.newest_letters(tenant, narrowed, (died_at, &message), query.limit).await?;
    // The next page begins after a message and a moment: what is left of these comes with this one.
    if let Some(last) = letters.last()
        && letters.len() == query.limit
        && narrowed.mailbox.is_none()
    {
        letters.extend(tables.letters_at_once(tenant, last).await?);
    }
    if letters.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = letters.iter();
    let wanted = wanted.map(|row| Wanted { answer: 0, number: row.number, message_id: &row.message_id });
    let given = tables.messages(&wanted.collect::<Vec<_>>(), TAKE_MAX_BYTES).await?;
    let mut given = given.into_iter().peekable();
    let mut page = Vec::new();
    for letter in letters {
        // One may have been forgotten meanwhile, and not all may fit in.
        let Some(given) = given.next_if(|given| given.message.number == letter.number) else { continue };
        page.push(DeadLetter {
            message: given.message.message()?,
            mailbox: letter.mailbox()?,
            attempts: u32::try_from(letter.attempts).map_err(unreadable)?,
            died_at: Timestamp::from_millis(letter.died_at),
            reason: letter.reason.unwrap_or_default(),
        });
    }
    Ok(page)
}

pub(crate) async fn dead_letters<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    query: &DeadLetterQuery,
) -> Result<Vec<DeadLetter>>
where
    DB::Connection: Tables,
{
    let mut tables = sql.reader().await?;
    let page = in_time(page(&mut *tables, tenant, query)).await;
    tables.done(page)
}

/// What becomes of letters.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Redriven { now: Timestamp },
    Purged,
}

/// Going through all that a selection means, some letters at a time.
#[derive(Clone)]
struct Walk {
    tenant: TenantId,
    mailbox: Option<Mailbox>,
    /// What is left to look through, the next last: all, or one message each.
    left: Vec<Option<MessageId>>,
    after: (i64, i64),
    fate: Fate,
    done: u64,
    wake: BTreeSet<Mailbox>,
}

impl Walk {
    fn new(tenant: &TenantId, selection: &DeadLetterSelection, fate: Fate) -> Self {
        let messages: BTreeSet<MessageId> = selection.messages.iter().copied().collect();
        let mut left: Vec<_> = messages.into_iter().map(Some).collect();
        if selection.all && left.is_empty() {
            left.push(None);
        }
        let (tenant, mailbox) = (tenant.clone(), selection.mailbox.clone());
        Self { tenant, mailbox, left, after: (0, 0), fate, done: 0, wake: BTreeSet::new() }
    }

    /// The audit's entry goes with the first letters that are there.
    async fn go<DB: Database>(mut self, sql: &Sql<DB>, audit: AuditEntry) -> Result<Self>
    where
        DB::Connection: Tables,
    {
        while !self.left.is_empty() {
            let (step, audit) = (self.clone(), (self.done == 0).then(|| audit.clone()));
            let scribe = Arc::clone(&sql.mail_scribe);
            let step =
                sql.writer.write_apart(move |tables| Box::pin(async move { step.step(tables, &scribe, audit).await }));
            self = step.await?;
        }
        Ok(self)
    }

    async fn step(
        mut self,
        tables: &mut impl Tables,
        scribe: &Scribe,
        audit: Option<AuditEntry>,
    ) -> Result<Self, Failure> {
        let Some(narrowed) = narrowed(tables, &self.tenant, self.mailbox.as_ref()).await? else {
            self.left.clear();
            return Ok(self);
        };
        let mut letters = Vec::new();
        while let Some(message) = self.left.last().copied() {
            let (narrowed, room) = (Narrowed { message, ..narrowed }, LETTERS_MAX - letters.len());
            let found = tables.letters(&self.tenant, narrowed, self.after, room).await?;
            match found.last() {
                Some(last) if found.len() == room => self.after = (last.mailbox, last.number),
                _ => {
                    self.left.pop();
                    self.after = (0, 0);
                }
            }
            letters.extend(found);
            if letters.len() == LETTERS_MAX {
                break;
            }
        }
        let done = self.meet(tables, &letters).await?;
        self.done += done;
        if let (Some(audit), true) = (audit, done > 0) {
            scribe.record(tables, &[audit]).await?;
        }
        Ok(self)
    }

    /// A mailbox that is closed keeps its letters, and so does one that another agent has now.
    async fn meet(&mut self, tables: &mut impl Tables, letters: &[LetterRow]) -> Result<u64, Failure> {
        let mailboxes: Vec<Mailbox> = letters.iter().map(LetterRow::mailbox).collect::<Result<_>>()?;
        let mailboxes: BTreeSet<(&TenantId, &Mailbox)> =
            mailboxes.iter().map(|mailbox| (&self.tenant, mailbox)).collect();
        let mut locked = tables.lock_mailboxes(&mailboxes.into_iter().collect::<Vec<_>>()).await?;
        let redrives = matches!(self.fate, Fate::Redriven { .. });
        locked.retain(|mailbox| !(redrives && mailbox.closed));
        let of = |mailbox: i64| locked.iter().find(|row: &&MailboxRow| row.mailbox == mailbox);
        let goes = |place: &Place| of(place.mailbox).is_some_and(|row| !redrives || place.number > row.since);
        let places: Vec<Place> = letters.iter().map(LetterRow::place).filter(goes).collect();
        let removed: BTreeSet<_> = tables.remove_letters(&self.tenant, &places).await?.into_iter().collect();
        let Fate::Redriven { now } = self.fate else { return Ok(removed.len() as u64) };

        let letters = letters.iter().filter(|letter| removed.contains(&(letter.mailbox, letter.number)));
        let letters: Vec<&LetterRow> = letters.collect();
        let places: Vec<Place> = letters.iter().map(|letter| letter.place()).collect();
        let (mut changes, mut redriven) = (Changes::default(), 0);
        for mut row in tables.deliveries_at(&places, false).await? {
            let letter = letters.iter().find(|letter| letter.place() == row.place());
            let (Some(letter), Some(mailbox)) = (letter, of(row.mailbox)) else { continue };
            if row.is(DeliveryState::Dead) {
                row.revive(letter.may_wait(), now);
                changes.put_reopened(mailbox, row);
                self.wake.insert(letter.mailbox()?);
                redriven += 1;
            }
        }
        changes.write(tables).await?;
        Ok(redriven)
    }
}

pub(crate) async fn redrive<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    selection: &DeadLetterSelection,
    now: Timestamp,
    audit: AuditEntry,
) -> Result<(u64, Vec<Mailbox>)>
where
    DB::Connection: Tables,
{
    let walked = Walk::new(tenant, selection, Fate::Redriven { now }).go(sql, audit).await?;
    Ok((walked.done, walked.wake.into_iter().collect()))
}

pub(crate) async fn purge<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    selection: &DeadLetterSelection,
    audit: AuditEntry,
) -> Result<u64>
where
    DB::Connection: Tables,
{
    Ok(Walk::new(tenant, selection, Fate::Purged).go(sql, audit).await?.done)
}
