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
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRanks => write!(f, "there must be at least one rank"),
            Self::Negative { row, cost } => write!(f, "row {row} has the negative cost {cost}"),
        }
    }
}

impl error::Error for ShareError {}

/// Assigns each row to a rank, by its cost.
///
/// Rows of equal cost go in their order; of ranks with equally little, the first is taken.
///
/// # Errors
///
/// No ranks, or a negative cost.
pub fn share_rows(costs: &[i64], num_ranks: usize) -> Result<Vec<i64>, ShareError> {
    if num_ranks == 0 {
        return Err(ShareError::NoRanks);
    }
    if let Some(row) = costs.iter().position(|&cost| cost < 0) {
        return Err(ShareError::Negative { row, cost: costs[row] });
    }
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&row| Reverse(costs[row])); // stable
    let mut ranks: BinaryHeap<Reverse<(i128, usize)>> = (0..num_ranks).map(|rank| Reverse((0, rank))).collect();
    let mut rank_of = vec![0; costs.len()];
    for row in order {
        let Some(Reverse((load, rank))) = ranks.pop() else { return Err(ShareError::NoRanks) };
        rank_of[row] = rank as i64;
        ranks.push(Reverse((load + i128::from(costs[row]), rank)));
    }
    Ok(rank_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_computed_case() {
        // 7 to rank 0, 6 to rank 1, 5 to rank 1 (11), 4 to rank 0 (11), 3 to rank 0, the first of equals.
        assert_eq!(share_rows(&[3, 7, 5, 6, 4], 2), Ok(vec![0, 0, 1, 1, 0]));
        assert_eq!(share_rows(&[], 3), Ok(vec![]));
        assert_eq!(share_rows(&[i64::MAX, i64::MAX, 1], 1), Ok(vec![0, 0, 0]));
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
            let rank_of = share_rows(&costs, num_ranks).expect("costs that can be shared");
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
        assert_eq!(share_rows(&[1], 0), Err(ShareError::NoRanks));
        assert_eq!(share_rows(&[1, -2], 2), Err(ShareError::Negative { row: 1, cost: -2 }));
    }
}
