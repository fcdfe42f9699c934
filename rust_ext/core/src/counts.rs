//! How often each length, or difference of two lengths, occurs, and the one at each rank.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Lengths from 0 to below this are counted in an array, the rarer longer ones and negative differences in a map.
const DENSE: usize = 1 << 16;

/// How often each length occurs.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub count: u64,
    pub sum: i128,
    /// By length, as long as the longest length seen below [`DENSE`] needs.
    dense: Vec<u64>,
    sparse: BTreeMap<i64, u64>,
}

impl Counts {
    /// Counts lengths or differences.
    pub fn add(&mut self, lengths: &[i64]) {
        if let Some(longest) = lengths.iter().copied().filter(|length| (0..DENSE as i64).contains(length)).max() {
            self.grow(longest as usize + 1);
        }
        for &length in lengths {
            self.sum += i128::from(length);
            match usize::try_from(length).ok().and_then(|at| self.dense.get_mut(at)) {
                Some(count) => *count += 1,
                None => *self.sparse.entry(length).or_default() += 1,
            }
        }
        self.count += lengths.len() as u64;
    }

    pub fn merge(&mut self, other: &Self) {
        self.grow(other.dense.len());
        for (count, more) in self.dense.iter_mut().zip(&other.dense) {
            *count += more;
        }
        for (&length, more) in &other.sparse {
            *self.sparse.entry(length).or_default() += more;
        }
        self.count += other.count;
        self.sum += other.sum;
    }

    fn grow(&mut self, len: usize) {
        if len > self.dense.len() {
            self.dense.resize(len, 0);
        }
    }

    /// The lengths that occur and how often, the shortest first.
    pub fn ascending(&self) -> impl Iterator<Item = (i64, u64)> {
        let dense = self.dense.iter().enumerate().map(|(length, &count)| (length as i64, count));
        let sparse =
            |range: (Bound<i64>, Bound<i64>)| self.sparse.range(range).map(|(&length, &count)| (length, count));
        sparse((Bound::Unbounded, Bound::Excluded(0)))
            .chain(dense.filter(|&(_, count)| count > 0))
            .chain(sparse((Bound::Included(0), Bound::Unbounded)))
    }

    /// The length at a rank from 0 to `count - 1`; the longest at any higher rank.
    pub fn at_rank(&self, rank: u64) -> i64 {
        let (mut before, mut found) = (0, 0);
        for (length, count) in self.ascending() {
            found = length;
            before += count;
            if before > rank {
                break;
            }
        }
        found
    }

    /// Interpolates from the nearer rank, as numpy does, so that the results are the same to the bit.
    pub fn quantile(&self, q: f64) -> f64 {
        let place = q * (self.count - 1) as f64;
        let low = place.floor();
        let (below, above) = (self.at_rank(low as u64), self.at_rank(low as u64 + 1));
        let (share, difference) = (place - low, (i128::from(above) - i128::from(below)) as f64);
        if share < 0.5 { below as f64 + difference * share } else { above as f64 - difference * (1.0 - share) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_go_on_from_the_array_to_the_map() {
        let lengths = [DENSE as i64, 2, DENSE as i64 - 1, i64::MAX, 2];
        let mut counts = Counts::default();
        counts.add(&lengths);
        let ranks: Vec<i64> = (0..6).map(|rank| counts.at_rank(rank)).collect();
        assert_eq!(ranks, [2, 2, DENSE as i64 - 1, DENSE as i64, i64::MAX, i64::MAX]);
        assert_eq!(counts.ascending().map(|(_, count)| count).sum::<u64>(), counts.count);
    }

    #[test]
    fn negative_differences_come_before_all_others() {
        let mut counts = Counts::default();
        counts.add(&[3, -1, 0, -7, 3, -1]);
        let ranks: Vec<i64> = (0..6).map(|rank| counts.at_rank(rank)).collect();
        assert_eq!(ranks, [-7, -1, -1, 0, 3, 3]);
        assert_eq!((counts.sum, counts.quantile(0.5)), (-3, -0.5));
    }

    #[test]
    fn a_long_length_costs_no_array() {
        let mut counts = Counts::default();
        counts.add(&[3, i64::MAX]);
        assert_eq!(counts.dense.len(), 4);
    }
}
