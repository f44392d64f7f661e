//! What of a mailbox may be handed out next: its lines, read page by page until each has enough.

use std::collections::BTreeMap;

use guildhall_domain::{
    Timestamp,
    mail::{
        Priority,
        turn::{Line, Open, Underway, share},
    },
};

use super::{
    deliveries::DeliveryTables,
    rows::{DeliveryRow, Lapse, MailboxRow, PRIORITIES, Place},
};
use crate::failure::Failure;

/// Rows a line reads at a time: enough that one page nearly always does.
const PAGE_MIN: usize = 64;
/// Of what is looked at, at most this share is in other hands or rests, as a rule.
const PAGE_FACTOR: usize = 4;

/// The search of one mailbox, for `limit` of its deliveries.
pub(crate) struct Hunt<'a> {
    mailbox: &'a MailboxRow,
    limit: usize,
    now: Timestamp,
    lines: [Line<'a>; 4],
    /// Where each line goes on; `None` once it has enough or there is no more.
    after: [Option<i64>; 4],
    ready: BTreeMap<i64, DeliveryRow>,
    lapsed: Vec<(Lapse, DeliveryRow)>,
}

pub(crate) struct Found<'a> {
    pub(crate) mailbox: &'a MailboxRow,
    limit: usize,
    lines: [Vec<i64>; 4],
    ready: BTreeMap<i64, DeliveryRow>,
    /// What the clock has changed and nobody has written yet, as it is to be.
    pub(crate) lapsed: Vec<(Lapse, DeliveryRow)>,
}

impl<'a> Hunt<'a> {
    pub(crate) fn new(mailbox: &'a MailboxRow, underway: &'a [Underway], limit: usize, now: Timestamp) -> Self {
        let line = |priority| Line::new(priority, mailbox.in_order(), underway, limit);
        Self {
            mailbox,
            limit,
            now,
            lines: Priority::ALL.map(line),
            after: [Some(0); 4],
            ready: BTreeMap::new(),
            lapsed: Vec::new(),
        }
    }

    fn ends(&self) -> impl Iterator<Item = Place> {
        let mailbox = self.mailbox.mailbox;
        let lines = PRIORITIES.into_iter().zip(self.after);
        lines.filter_map(move |(priority, after)| Some(Place { mailbox, priority, number: after? }))
    }

    /// Each line's next page, which is its last when it is shorter than `size`.
    fn consider(&mut self, rows: Vec<DeliveryRow>, size: usize) {
        let mut pages: [Vec<DeliveryRow>; 4] = Default::default();
        for row in rows {
            pages[usize::from(row.priority.unsigned_abs()) % 4].push(row);
        }
        for (n, page) in pages.into_iter().enumerate() {
            self.after[n] = page.last().filter(|_| page.len() == size).map(|last| last.number);
            for mut row in page {
                let lapse = row.lapse(self.now);
                let is_ready = row.is_ready(self.now);
                let open = Open { number: row.number, sender: &row.sender, ready: is_ready };
                let wants_more = !row.open || self.lines[n].consider(&open);
                match lapse {
                    Some(lapse) => self.lapsed.push((lapse, row)),
                    None if is_ready => drop(self.ready.insert(row.number, row)),
                    None => {}
                }
                if !wants_more {
                    self.after[n] = None;
                    break;
                }
            }
        }
    }

    fn found(self) -> Found<'a> {
        let Self { mailbox, limit, lines, ready, lapsed, .. } = self;
        Found { mailbox, limit, lines: lines.map(Line::numbers), ready, lapsed }
    }
}

impl Found<'_> {
    /// What of it is handed out, in that order, at most `limit`, and where the round of priorities stands then.
    pub(crate) fn choose(&self, limit: usize) -> (Vec<&DeliveryRow>, i64) {
        let turn = u32::try_from(self.mailbox.turn).unwrap_or(0);
        let (numbers, next) = share(self.lines.clone(), turn, limit.min(self.limit));
        // Where no two compete, the round stays where it is: most takings then leave the mailbox's row unwritten.
        let compete = self.lines[1..].iter().filter(|line| !line.is_empty()).count() > 1;
        let next = if compete { i64::from(next) } else { self.mailbox.turn };
        (numbers.iter().filter_map(|number| self.ready.get(number)).collect(), next)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lapsed.is_empty() && self.lines.iter().all(Vec::is_empty)
    }

    /// Whether nothing is left to be handed out after `chosen` of it were.
    pub(crate) fn is_all(&self, chosen: usize) -> bool {
        let found: usize = self.lines.iter().map(Vec::len).sum();
        chosen == found && self.lines.iter().all(|line| line.len() < self.limit)
    }
}

/// All at once, so that it takes few statements.
pub(crate) async fn hunt<'a>(
    tables: &mut impl DeliveryTables,
    mut hunts: Vec<Hunt<'a>>,
) -> Result<Vec<Found<'a>>, Failure> {
    let most = hunts.iter().map(|hunt| hunt.limit).max().unwrap_or(0);
    let size = PAGE_MIN.max(PAGE_FACTOR * most);
    loop {
        let ends: Vec<Place> = hunts.iter().flat_map(Hunt::ends).collect();
        if ends.is_empty() {
            return Ok(hunts.into_iter().map(Hunt::found).collect());
        }
        let mut pages: BTreeMap<i64, Vec<DeliveryRow>> = BTreeMap::new();
        for row in tables.pages(&ends, size).await? {
            pages.entry(row.mailbox).or_default().push(row);
        }
        for hunt in &mut hunts {
            hunt.consider(pages.remove(&hunt.mailbox.mailbox).unwrap_or_default(), size);
        }
    }
}
