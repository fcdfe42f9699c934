//! Trees into rows of fixed capacity, by best fit decreasing.
//!
//! The longest tree goes first, each into the row that it leaves the least space in. Lengths are small integers, so that
//! the order comes from counting, not from comparing, and the best row from a bit set of free space. Source: D. S.
//! Johnson, Near-optimal bin packing algorithms (1973): at most 11/9 of the fewest rows possible, and 4 more.

use std::error;
use std::fmt;

use crate::free_space::FreeSpace;

/// The largest capacity of a row, in tokens; memory grows with it.
pub const MAX_CAPACITY: i64 = 1 << 24;

/// Which row each tree is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packing {
    /// The row of each tree, in the trees' order.
    pub row_of: Vec<i64>,
    pub num_rows: usize,
}

/// Why trees cannot be packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackError {
    Capacity { capacity: i64 },
    Negative { tree: usize, length: i64 },
    TooLong { tree: usize, length: i64, capacity: i64 },
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity { capacity } => {
                write!(f, "rows of {capacity} tokens: the capacity must be between 1 and {MAX_CAPACITY}")
            }
            Self::Negative { tree, length } => write!(f, "tree {tree} has the negative length {length}"),
            Self::TooLong { tree, length, capacity } => {
                write!(f, "tree {tree} has {length} tokens, but a row holds {capacity}: cut it or raise the capacity")
            }
        }
    }
}

impl error::Error for PackError {}

/// Assigns trees to rows of `capacity` tokens by best fit decreasing.
///
/// Trees of equal length go in their order; of rows with equally little space, the one put to last is taken. Rows are
/// numbered in the order in which they are opened, so that row 0 holds the longest tree.
///
/// # Errors
///
/// A capacity below 1 or above [`MAX_CAPACITY`], a negative length, a tree longer than the capacity.
pub fn pack_trees(lengths: &[i64], capacity: i64) -> Result<Packing, PackError> {
    if !(1..=MAX_CAPACITY).contains(&capacity) {
        return Err(PackError::Capacity { capacity });
    }
    let mut counts = vec![0_usize; capacity as usize + 1];
    for (tree, &length) in lengths.iter().enumerate() {
        if length < 0 {
            return Err(PackError::Negative { tree, length });
        }
        if length > capacity {
            return Err(PackError::TooLong { tree, length, capacity });
        }
        counts[length as usize] += 1;
    }
    let (mut rows_by_length, num_rows) = assign_rows(&counts, lengths.len());
    let row_of = lengths.iter().map(|&length| rows_by_length.next_of(length as usize)).collect();
    Ok(Packing { row_of, num_rows })
}

/// The rows that the trees of each length got, to be handed out in the trees' order.
struct RowsByLength {
    rows: Vec<i64>,
    /// Where in `rows` the next tree of each length finds its row.
    next: Vec<usize>,
}

impl RowsByLength {
    fn next_of(&mut self, length: usize) -> i64 {
        let at = self.next[length];
        self.next[length] += 1;
        self.rows[at]
    }
}

/// Packs `counts[length]` trees of every length, the longest first; equal trees need not be told apart for that.
fn assign_rows(counts: &[usize], num_trees: usize) -> (RowsByLength, usize) {
    let capacity = counts.len() - 1;
    let mut space = FreeSpace::new(capacity);
    let mut rows = Vec::with_capacity(num_trees);
    let mut next = vec![0; counts.len()];
    for length in (0..counts.len()).rev() {
        next[length] = rows.len();
        for _ in 0..counts[length] {
            let (row, free) = space.pop_at_least(length).unwrap_or_else(|| (space.new_row(), capacity));
            space.push(row, free - length);
            rows.push(row as i64);
        }
    }
    (RowsByLength { rows, next }, space.num_rows())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lengths: &[i64], capacity: i64) -> (Vec<i64>, usize) {
        let packing = pack_trees(lengths, capacity).expect("lengths that fit");
        (packing.row_of, packing.num_rows)
    }

    #[test]
    fn each_tree_goes_where_it_leaves_the_least_space() {
        // 7 and 6 open rows 0 and 1 (3 and 4 free); 4 fills row 1, 3 fills row 0, 2 opens row 2.
        assert_eq!(rows(&[2, 7, 3, 6, 4], 10), (vec![2, 0, 0, 1, 1], 3));
    }

    #[test]
    fn equal_trees_keep_their_order_and_take_the_row_put_to_last() {
        // 6, 6 open rows 0 and 1; of the equal rows the last, 1, is taken by the first 3, then row 0.
        assert_eq!(rows(&[6, 3, 6, 3], 10), (vec![0, 1, 1, 0], 2));
    }

    #[test]
    fn full_and_empty_trees_need_no_more_rows_than_they_must() {
        assert_eq!(rows(&[5, 0, 5, 0], 5), (vec![0, 1, 1, 1], 2));
        assert_eq!(rows(&[0, 0], 5), (vec![0, 0], 1));
        assert_eq!(rows(&[], 5), (vec![], 0));
    }

    #[test]
    fn nothing_is_lost_and_no_row_is_over_capacity() {
        let mut state = 7_u64;
        let lengths: Vec<i64> = (0..20_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as i64 % 4097
            })
            .collect();
        let (row_of, num_rows) = rows(&lengths, 4096);
        let mut filled = vec![0; num_rows];
        for (&row, &length) in row_of.iter().zip(&lengths) {
            filled[row as usize] += length;
        }
        assert_eq!(row_of.len(), lengths.len());
        assert!(filled.iter().all(|&tokens| 0 < tokens && tokens <= 4096));
        assert_eq!(rows(&lengths, 4096), (row_of, num_rows));
    }

    /// Best fit decreasing, by looking at every row for every tree.
    fn plain(lengths: &[i64], capacity: i64) -> (Vec<i64>, usize) {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&tree| -lengths[tree]);
        let mut free: Vec<(i64, i64)> = Vec::new(); // space, and minus the time of the last tree
        let mut row_of = vec![0; lengths.len()];
        for (time, tree) in order.into_iter().enumerate() {
            let fitting = (0..free.len()).filter(|&row| free[row].0 >= lengths[tree]);
            let row = fitting.min_by_key(|&row| free[row]).unwrap_or_else(|| {
                free.push((capacity, 0));
                free.len() - 1
            });
            free[row] = (free[row].0 - lengths[tree], -(time as i64));
            row_of[tree] = row as i64;
        }
        (row_of, free.len())
    }

    #[test]
    fn random_problems_equal_the_plain_search() {
        let mut state = 1_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..2000 {
            let capacity = [1, 2, 63, 64, 65, 127, 128, 4096, 5000][next(9) as usize];
            let longest = 1 + next(capacity);
            let count = next(60);
            let lengths: Vec<i64> = (0..count).map(|_| next(longest + 1) as i64).collect();
            assert_eq!(rows(&lengths, capacity as i64), plain(&lengths, capacity as i64), "{lengths:?} in {capacity}");
        }
    }

    #[test]
    fn what_cannot_be_packed_is_named() {
        assert_eq!(pack_trees(&[3, 6], 5), Err(PackError::TooLong { tree: 1, length: 6, capacity: 5 }));
        assert_eq!(pack_trees(&[3, -1], 5), Err(PackError::Negative { tree: 1, length: -1 }));
        for capacity in [0, -4, MAX_CAPACITY + 1, i64::MAX] {
            assert_eq!(pack_trees(&[], capacity), Err(PackError::Capacity { capacity }));
        }
    }
}
