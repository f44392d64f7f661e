//! Taking mail out of a mailbox under a lease.
//!
//! Whoever takes and has not heard of mail looks first with a reader, for most such takings find nothing. Then, with the mailboxes locked: what has
//! lapsed is brought to what the clock says, what may be handed out next is found (`hunt.rs`), as much of it as an
//! answer holds is read, and leased.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use guildhall_domain::{
    Result, TenantId, Timestamp,
    mail::{Delivered, Lease, Mailbox, Priority, delivery::TAKE_MAX_BYTES, turn::Underway},
    ports::mail_store::Taking,
};
use sqlx::{Database, FromRow, PgConnection, SqliteConnection};

use super::{
    changes::Changes,
    deliveries::{DeliveryTables, Run},
    hunt::{Found, Hunt, hunt},
    lane::{Call, Care},
    rows::{DeliveryRow, Lapse, MailboxRow, MessageRow},
};
use crate::{
    agent_store::Tables,
    audit::Scribe,
    disk::Until,
    engine::{Sql, in_time},
    failure::{Failure, unreadable},
    row::{json, signed},
};

/// Bodies that the answers of one group hold together.
const GROUP_MAX_BYTES: usize = 64 * 1024 * 1024;

const UNDERWAY: &str = "SELECT tenant, sender, priority, number FROM wide_messages WHERE underway";

/// A wide message that has not reached every mailbox yet.
#[derive(Debug, FromRow)]
pub(crate) struct UnderwayRow {
    tenant: String,
    sender: String,
    priority: i16,
    number: i64,
}

/// A message that is wanted, among others for the same answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) answer: usize,
    pub(crate) number: i64,
    pub(crate) message_id: &'a [u8],
}

#[derive(Debug, FromRow)]
pub(crate) struct Given {
    pub(crate) answer: i64,
    #[sqlx(flatten)]
    pub(crate) message: MessageRow,
}

pub(crate) trait TakeTables: DeliveryTables {
    fn underway(&mut self) -> impl Future<Output = Result<Vec<UnderwayRow>, Failure>> + Send;
    /// In the order they are wanted. An answer ends before the message that would bring its bodies above `bytes`, but
    /// has its first one.
    fn messages(
        &mut self,
        wanted: &[Wanted<'_>],
        bytes: usize,
    ) -> impl Future<Output = Result<Vec<Given>, Failure>> + Send;
}

impl TakeTables for SqliteConnection {
    async fn underway(&mut self) -> Result<Vec<UnderwayRow>, Failure> {
        Ok(sqlx::query_as(UNDERWAY).fetch_all(self).await?)
    }

    async fn messages(&mut self, wanted: &[Wanted<'_>], bytes: usize) -> Result<Vec<Given>, Failure> {
        let wanted: Vec<_> = wanted.iter().map(|wanted| (wanted.answer, wanted.number)).collect();
        let read = sqlx::query_as(
            "SELECT measured.answer, messages.* FROM (
                 SELECT messages.number, wanted.key AS place, wanted.value->>0 AS answer, octet_length(body) AS bytes,
                     SUM(octet_length(body)) OVER (PARTITION BY wanted.value->>0 ORDER BY wanted.key) AS so_far
                 FROM json_each($1) AS wanted CROSS JOIN messages ON messages.number = wanted.value->>1) AS measured
             JOIN messages ON messages.number = measured.number
             WHERE measured.so_far <= $2 OR measured.so_far = measured.bytes ORDER BY measured.place",
        );
        Ok(read.bind(json(&wanted)?).bind(i64::try_from(bytes).unwrap_or(i64::MAX)).fetch_all(self).await?)
    }
}

impl TakeTables for PgConnection {
    async fn underway(&mut self) -> Result<Vec<UnderwayRow>, Failure> {
        Ok(sqlx::query_as(UNDERWAY).fetch_all(self).await?)
    }

    async fn messages(&mut self, wanted: &[Wanted<'_>], bytes: usize) -> Result<Vec<Given>, Failure> {
        let answers: Vec<i64> = wanted.iter().map(|wanted| signed(wanted.answer as u64)).collect();
        let ids: Vec<&[u8]> = wanted.iter().map(|wanted| wanted.message_id).collect();
        let read = sqlx::query_as(
            "SELECT * FROM (
                 SELECT messages.*, wanted.answer, wanted.place, octet_length(body) AS bytes,
                     SUM(octet_length(body)) OVER (PARTITION BY wanted.answer ORDER BY wanted.place) AS so_far
                 FROM UNNEST($1::bigint[], $2::bytea[]) WITH ORDINALITY AS wanted (answer, message_id, place)
                 JOIN messages ON messages.message_id = wanted.message_id) AS measured
             WHERE so_far <= $3 OR so_far = bytes ORDER BY place",
        );
        Ok(read.bind(answers).bind(ids).bind(i64::try_from(bytes).unwrap_or(i64::MAX)).fetch_all(self).await?)
    }
}

impl<C: Tables> Call<C> for Taking {
    type Answer = Vec<Delivered>;
    /// A lease that is lost with the machine's power was never given: the mail is handed out anew, as it would be anyway.
    const UNTIL: Until = Until::Done;

    async fn run_all(
        tables: &mut C,
        _scribe: &Scribe,
        calls: &[Self],
        _care: Care,
    ) -> Result<Vec<Result<Vec<Delivered>>>, Failure> {
        Ok(take_all(tables, calls).await?.into_iter().map(Ok).collect())
    }
}

pub(crate) async fn take<DB: Database>(sql: &Sql<DB>, taking: Taking) -> Result<Vec<Delivered>>
where
    DB::Connection: Tables,
{
    if !taking.told {
        let mut tables = sql.reader().await?;
        let worth = in_time(is_worth_it(&mut *tables, &taking)).await;
        if !tables.done(worth)? {
            return Ok(Vec::new());
        }
    }
    sql.takes.push(taking).await
}

/// Whether taking may find something, or something has lapsed.
async fn is_worth_it(tables: &mut impl Tables, taking: &Taking) -> Result<bool, Failure> {
    let mut mailboxes = tables.mailboxes(&taking.tenant, &taking.mailboxes).await?;
    mailboxes.retain(|mailbox| mailbox.waiting > 0);
    let hunts = mailboxes.iter().map(|mailbox| Hunt::new(mailbox, &[], 1, taking.now)).collect();
    Ok(hunt(tables, hunts).await?.iter().any(|found| !found.is_empty()))
}

/// Per tenant.
pub(crate) async fn wide_underway(tables: &mut impl TakeTables) -> Result<BTreeMap<String, Vec<Underway>>, Failure> {
    let mut underway: BTreeMap<String, Vec<Underway>> = BTreeMap::new();
    for UnderwayRow { tenant, sender, priority, number } in tables.underway().await? {
        let known = u8::try_from(priority).ok().and_then(Priority::of_rank);
        let priority = known.ok_or_else(|| unreadable(format_args!("priority {priority}")))?;
        underway.entry(tenant).or_default().push(Underway { sender, priority, number });
    }
    Ok(underway)
}

/// In rounds: no mailbox is taken from twice in one, so that each taker finds what those before it have left.
async fn take_all(tables: &mut impl Tables, calls: &[Taking]) -> Result<Vec<Vec<Delivered>>, Failure> {
    let named = calls.iter().flat_map(|call| call.mailboxes.iter().map(|mailbox| (&call.tenant, mailbox)));
    let named: BTreeSet<(&TenantId, &Mailbox)> = named.collect();
    let mut group = Group { calls, answers: calls.iter().map(|_| Vec::new()).collect(), mailboxes: BTreeMap::new() };
    let mut numbers = BTreeMap::new();
    for row in tables.lock_mailboxes(&named.into_iter().collect::<Vec<_>>()).await? {
        if row.waiting > 0 {
            numbers.insert((row.tenant.clone(), row.named()?), row.mailbox);
            group.mailboxes.insert(row.mailbox, row);
        }
    }
    let underway = if numbers.is_empty() { BTreeMap::new() } else { wide_underway(tables).await? };
    let own = |call: &Taking| {
        let own = call.mailboxes.iter().map(|mailbox| (call.tenant.to_string(), mailbox.clone()));
        own.filter_map(|key| numbers.get(&key).copied()).collect()
    };
    let mut left: Vec<(usize, Vec<i64>)> = calls.iter().map(own).enumerate().collect();
    while !left.is_empty() {
        let (mut round, mut later, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (n, mut own) in left {
            own.retain(|mailbox| group.mailboxes.contains_key(mailbox));
            if own.iter().any(|mailbox| used.contains(mailbox)) {
                later.push((n, own));
            } else if !own.is_empty() {
                used.extend(own.iter().copied());
                round.push((n, own));
            }
        }
        if !round.is_empty() {
            group.take_round(tables, &round, &underway).await?;
        }
        left = later;
    }
    Ok(group.answers)
}

/// Takings that are done together.
struct Group<'a> {
    calls: &'a [Taking],
    answers: Vec<Vec<Delivered>>,
    /// Locked ones in which something may be left to hand out.
    mailboxes: BTreeMap<i64, MailboxRow>,
}

impl Group<'_> {
    async fn take_round(
        &mut self,
        tables: &mut impl Tables,
        round: &[(usize, Vec<i64>)],
        underway: &BTreeMap<String, Vec<Underway>>,
    ) -> Result<(), Failure> {
        let mut hunts = Vec::new();
        for (n, own) in round {
            let call = &self.calls[*n];
            let underway = underway.get(call.tenant.as_str()).map_or(&[][..], Vec::as_slice);
            hunts.extend(own.iter().map(|mailbox| {
                let mailbox = &self.mailboxes[mailbox];
                Hunt::new(mailbox, underway, call.limit, call.now)
            }));
        }
        let mut found = hunt(tables, hunts).await?.into_iter();
        let found: Vec<(usize, Vec<Found<'_>>)> =
            round.iter().map(|(n, own)| (*n, found.by_ref().take(own.len()).collect())).collect();
        let mut given = read(tables, self.calls, &found).await?;

        let (mut changes, mut left) = (Changes::default(), Vec::new());
        for (n, found) in &found {
            let call = &self.calls[*n];
            let lease_until = call.now + call.lease;
            let mut room = call.limit;
            for found in found {
                let (chosen, _) = found.choose(room);
                let held = chosen.iter().take_while(|row| given.contains_key(&(*n, row.number))).count();
                let (chosen, turn) = found.choose(held);
                room -= held;
                let mailbox = found.mailbox.named()?;
                for row in chosen {
                    let Some(message) = given.remove(&(*n, row.number)) else { continue };
                    let mut row = row.clone();
                    row.hand_out(&call.taker, lease_until);
                    self.answers[*n].push(Delivered {
                        message: message.message()?,
                        mailbox: mailbox.clone(),
                        lease: Lease { mailbox: row.mailbox, number: row.number, hand_out: row.hand_out },
                        lease_until,
                        attempt: row.attempts()?.saturating_add(1),
                    });
                    changes.put(found.mailbox, row, call.now);
                }
                changes.turn(found.mailbox, turn);
                put_lapsed(tables, &mut changes, found.mailbox, &found.lapsed, call.now).await?;
                left.push((found.mailbox.mailbox, turn, found.is_all(held)));
            }
        }
        changes.write(tables).await?;
        for (mailbox, turn, is_all) in left {
            if is_all {
                self.mailboxes.remove(&mailbox);
            } else if let Some(row) = self.mailboxes.get_mut(&mailbox) {
                row.turn = turn;
            }
        }
        Ok(())
    }
}

/// What was found, as far as the answers hold it: by the call's place in its group and the message's number.
async fn read(
    tables: &mut impl Tables,
    calls: &[Taking],
    found: &[(usize, Vec<Found<'_>>)],
) -> Result<BTreeMap<(usize, i64), MessageRow>, Failure> {
    let mut wanted = Vec::new();
    for (n, found) in found {
        let mut room = calls[*n].limit;
        for found in found {
            let (chosen, _) = found.choose(room);
            room -= chosen.len();
            wanted.extend(chosen.into_iter().map(|row| Wanted {
                answer: *n,
                number: row.number,
                message_id: &row.message_id,
            }));
        }
    }
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let bytes = TAKE_MAX_BYTES.min(GROUP_MAX_BYTES / calls.len().max(1));
    let given = tables.messages(&wanted, bytes).await?.into_iter();
    given
        .map(|given| Ok(((usize::try_from(given.answer).map_err(unreadable)?, given.message.number), given.message)))
        .collect()
}

/// What has lapsed in one mailbox, and with a lease that ran out the rest of what was taken with it: nothing overtakes
/// what its taker had first.
pub(crate) async fn put_lapsed(
    tables: &mut impl DeliveryTables,
    changes: &mut Changes,
    mailbox: &MailboxRow,
    lapsed: &[(Lapse, DeliveryRow)],
    now: Timestamp,
) -> Result<u64, Failure> {
    let known: BTreeSet<i64> = lapsed.iter().map(|(_, row)| row.number).collect();
    let mut runs = Vec::new();
    for (lapse, row) in lapsed {
        if let (Lapse::Lease(taker), true) = (lapse, mailbox.in_order()) {
            runs.push(Run { after: row.place(), sender: &row.sender, taker });
        }
        changes.put(mailbox, row.clone(), now);
    }
    if runs.is_empty() {
        return Ok(0);
    }
    let mut rest = tables.runs_in_hands(&runs).await?;
    rest.retain(|row| !known.contains(&row.number));
    rest.sort_by_key(|row| row.number);
    rest.dedup_by_key(|row| row.number);
    let given_back = rest.len() as u64;
    for mut row in rest {
        row.give_back();
        changes.put(mailbox, row, now);
    }
    Ok(given_back)
}
