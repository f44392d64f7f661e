//! Whose turn it is: what of a mailbox may be handed out next, and in which order.
//!
//! What one sender sent stays in order within a priority: while one of its messages is in someone's hands or rests
//! after a nack, its later ones wait. So everything a sender sent is handed out as runs, one at a time. Critical mail
//! goes first; of the rest, of 14 messages 8 are high, 4 normal and 2 low as long as there are so many of each, so
//! that low never starves. A mailbox remembers where in that round it stands.

use std::collections::HashSet;

use super::Priority;

const H: usize = Priority::High as usize;
const N: usize = Priority::Normal as usize;
const L: usize = Priority::Low as usize;
/// 8 high, 4 normal, 2 low, spread out.
const ROUND: [usize; 14] = [H, N, H, H, L, H, N, H, N, H, H, L, H, N];

/// A delivery that is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open<'a> {
    pub number: i64,
    pub sender: &'a str,
    /// Waiting, and not resting after a failed attempt.
    pub ready: bool,
}

/// A wide message of this sender that has not reached every mailbox: nothing that it sent later passes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underway {
    pub sender: String,
    pub priority: Priority,
    pub number: i64,
}

/// Finds what may be handed out of one priority, from its open deliveries in the order of their numbers.
pub struct Line<'u> {
    /// False in a pool's mailbox: its members work side by side.
    in_order: bool,
    held_up: HashSet<String>,
    underway: Vec<&'u Underway>,
    limit: usize,
    numbers: Vec<i64>,
}

impl<'u> Line<'u> {
    pub fn new(priority: Priority, in_order: bool, underway: &'u [Underway], limit: usize) -> Self {
        let underway = underway.iter().filter(|wide| wide.priority == priority).collect();
        Self { in_order, held_up: HashSet::new(), underway, limit, numbers: Vec::new() }
    }

    /// False when nothing more needs to be looked at.
    pub fn consider(&mut self, open: &Open<'_>) -> bool {
        if self.in_order {
            let passes = self.underway.iter().any(|wide| wide.sender == open.sender && wide.number < open.number);
            if self.held_up.contains(open.sender) {
                return true;
            }
            if !open.ready || passes {
                self.held_up.insert(open.sender.to_owned());
                return true;
            }
        } else if !open.ready {
            return true;
        }
        self.numbers.push(open.number);
        self.numbers.len() < self.limit
    }

    pub fn numbers(self) -> Vec<i64> {
        self.numbers
    }
}

/// The numbers of each priority's line in the order they are handed out, and where the round stands afterwards.
pub fn share(lines: [Vec<i64>; 4], turn: u32, limit: usize) -> (Vec<i64>, u32) {
    let [critical, rest @ ..] = lines;
    let mut chosen: Vec<i64> = critical.into_iter().take(limit).collect();
    let mut rest = rest.map(Vec::into_iter);
    let mut turn = turn as usize % ROUND.len();
    while chosen.len() < limit {
        let steps = (0..ROUND.len()).map(|step| (turn + step) % ROUND.len());
        let next = steps.into_iter().find_map(|at| rest[ROUND[at] - 1].next().map(|number| (at, number)));
        let Some((at, number)) = next else { break };
        chosen.push(number);
        turn = (at + 1) % ROUND.len();
    }
    #[expect(clippy::cast_possible_truncation, reason = "less than 14")]
    (chosen, turn as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(in_order: bool, underway: &[Underway], open: &[(i64, &str, bool)]) -> Vec<i64> {
        let mut line = Line::new(Priority::Normal, in_order, underway, 100);
        for (number, sender, ready) in open {
            line.consider(&Open { number: *number, sender, ready: *ready });
        }
        line.numbers()
    }

    #[test]
    fn a_message_in_someones_hands_holds_up_what_its_sender_sent_later_and_nobody_elses() {
        assert_eq!(line(true, &[], &[(1, "a", true), (2, "b", false), (3, "b", true), (4, "a", true)]), [1, 4]);
        assert_eq!(line(false, &[], &[(1, "a", true), (2, "b", false), (3, "b", true)]), [1, 3]);
    }

    #[test]
    fn a_later_message_does_not_pass_a_wide_one_that_is_still_underway() {
        let wide = [Underway { sender: "a".into(), priority: Priority::Normal, number: 2 }];
        assert_eq!(line(true, &wide, &[(1, "a", true), (3, "a", true), (4, "b", true)]), [1, 4]);
        let other = [Underway { priority: Priority::High, ..wide[0].clone() }];
        assert_eq!(line(true, &other, &[(1, "a", true), (3, "a", true)]), [1, 3]);
    }

    #[test]
    fn critical_goes_first_and_the_rest_in_eight_four_two() {
        let many = |from: i64| (from..from + 50).collect::<Vec<_>>();
        let (chosen, turn) = share([vec![1, 2], many(100), many(200), many(300)], 0, 16);
        assert_eq!(chosen[..2], [1, 2]);
        let of = |from: i64| chosen.iter().filter(|n| (from..from + 50).contains(*n)).count();
        assert_eq!((of(100), of(200), of(300)), (8, 4, 2));
        assert_eq!(turn, 0);
    }

    #[test]
    fn low_gets_its_share_even_when_taken_one_at_a_time() {
        let (mut turn, mut low) = (0, 0);
        for _ in 0..14 {
            let (chosen, next) = share([vec![], vec![1, 2], vec![3, 4], vec![5, 6]], turn, 1);
            low += usize::from(chosen == [5]);
            turn = next;
        }
        assert_eq!(low, 2);
    }

    #[test]
    fn a_priority_alone_is_handed_out_whole_and_in_order() {
        let (chosen, _) = share([vec![], vec![], vec![], vec![7, 8, 9]], 3, 10);
        assert_eq!(chosen, [7, 8, 9]);
    }
}
