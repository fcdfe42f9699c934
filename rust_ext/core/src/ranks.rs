//! Rows shared among ranks so that each has about the same work.
//!
//! The costliest row goes first, each to the rank that has the least so far. Source: R. L. Graham, Bounds on
//! multiprocessing timing anomalies (1969): the most loaded rank has at most 4/3 of the least possible.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::error;
use std::fmt;

/// Why rows cannot be shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareError {
    NoRanks,
    Negative { row: usize, cost: i64 },
    NoRoom { rows: usize, room: usize },
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRanks => write!(f, "there must be at least one rank"),
            Self::Negative { row, cost } => write!(f, "row {row} has the negative cost {cost}"),
            Self::NoRoom { rows, room } => write!(f, "{rows} rows, but the ranks take {room}"),
        }
    }
}

impl error::Error for ShareError {}

/// Assigns each row to a rank, by its cost; no rank gets more than `max_rows`.
///
/// Rows of equal cost go in their order; of ranks with equally little, the first is taken.
///
/// # Errors
///
/// No ranks, a negative cost, or more rows than the ranks may get.
pub fn share_rows(costs: &[i64], num_ranks: usize, max_rows: usize) -> Result<Vec<i64>, ShareError> {
    if num_ranks == 0 {
        return Err(ShareError::NoRanks);
    }
    let room = num_ranks.saturating_mul(max_rows);
    if costs.len() > room {
        return Err(ShareError::NoRoom { rows: costs.len(), room });
    }
    if let Some(row) = costs.iter().position(|&cost| cost < 0) {
        return Err(ShareError::Negative { row, cost: costs[row] });
    }
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&row| Reverse(costs[row])); // stable
    let mut ranks: BinaryHeap<Reverse<(i128, usize)>> = (0..num_ranks).map(|rank| Reverse((0, rank))).collect();
    let mut rank_of = vec![0; costs.len()];
    let mut counts = vec![0; num_ranks];
    for row in order {
        let Some(Reverse((load, rank))) = ranks.pop() else { return Err(ShareError::NoRanks) };
        rank_of[row] = rank as i64;
        counts[rank] += 1;
        if counts[rank] < max_rows {
            ranks.push(Reverse((load + i128::from(costs[row]), rank)));
        }
    }
    Ok(rank_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_computed_case() {
        // 7 to rank 0, 6 to rank 1, 5 to rank 1 (11), 4 to rank 0 (11), 3 to rank 0, the first of equals.
        assert_eq!(share_rows(&[3, 7, 5, 6, 4], 2, 9), Ok(vec![0, 0, 1, 1, 0]));
        assert_eq!(share_rows(&[], 3, 0), Ok(vec![]));
        assert_eq!(share_rows(&[i64::MAX, i64::MAX, 1], 1, 3), Ok(vec![0, 0, 0]));
    }

    #[test]
    fn a_full_rank_gets_no_more() {
        // 9 to rank 0; 1, 1, 1 to rank 1, which is full then; the last to rank 0.
        assert_eq!(share_rows(&[9, 1, 1, 1, 1], 2, 3), Ok(vec![0, 1, 1, 1, 0]));
        assert_eq!(share_rows(&[1, 1, 1], 2, 1), Err(ShareError::NoRoom { rows: 3, room: 2 }));
    }

    #[test]
    fn no_rank_has_more_than_the_mean_and_one_row() {
        let mut state = 11_u64;
        let costs: Vec<i64> = (0..5000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as i64 % 1_000_000
            })
            .collect();
        for num_ranks in [1, 2, 7, 64] {
            let rank_of = share_rows(&costs, num_ranks, costs.len()).expect("costs that can be shared");
            let mut loads = vec![0_i64; num_ranks];
            for (&rank, &cost) in rank_of.iter().zip(&costs) {
                loads[rank as usize] += cost;
            }
            let mean = costs.iter().sum::<i64>() / num_ranks as i64;
            assert!(loads.iter().all(|&load| load <= mean + 1_000_000));
        }
    }

    #[test]
    fn what_cannot_be_shared_is_named() {
        assert_eq!(share_rows(&[1], 0, 1), Err(ShareError::NoRanks));
        assert_eq!(share_rows(&[1, -2], 2, 1), Err(ShareError::Negative { row: 1, cost: -2 }));
    }
}
