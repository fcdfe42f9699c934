//! Exact statistics of lengths, column by column, over any number of parts.
//!
//! How often each length occurs is all that is kept: memory grows with the distinct lengths, not with the rows, and
//! every quantile is exact.

use crate::counts::Counts;
pub use crate::length_error::LengthError;

/// How often each length occurs in each column.
#[derive(Debug, Clone, Default)]
pub struct LengthStatistics {
    /// In order of first use; there are few.
    columns: Vec<(String, Counts)>,
}

impl LengthStatistics {
    /// No columns yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts lengths, making the column where it is new. After an error nothing was counted.
    ///
    /// # Errors
    ///
    /// A negative length, or more lengths than can be counted.
    pub fn add(&mut self, column: &str, lengths: &[i64]) -> Result<(), LengthError> {
        if let Some(row) = lengths.iter().position(|&length| length < 0) {
            return Err(LengthError::Negative { column: column.to_owned(), row, length: lengths[row] });
        }
        self.check_room(column, lengths.len() as u64)?;
        self.column_or_new(column).add(lengths);
        Ok(())
    }

    /// Counts the differences `left - right`, row by row, in a column of their own. After an error nothing was counted.
    ///
    /// # Errors
    ///
    /// A negative length, not as many of one as of the other, or more than can be counted.
    pub fn add_differences(&mut self, column: &str, left: &[i64], right: &[i64]) -> Result<(), LengthError> {
        if left.len() != right.len() {
            return Err(LengthError::Pairs { column: column.to_owned(), left: left.len(), right: right.len() });
        }
        for lengths in [left, right] {
            if let Some(row) = lengths.iter().position(|&length| length < 0) {
                return Err(LengthError::Negative { column: column.to_owned(), row, length: lengths[row] });
            }
        }
        self.check_room(column, left.len() as u64)?;
        let differences: Vec<i64> = left.iter().zip(right).map(|(left, right)| left - right).collect();
        self.column_or_new(column).add(&differences);
        Ok(())
    }

    /// Counts what `other` has counted. Its new columns follow the own ones. After an error nothing was counted.
    ///
    /// # Errors
    ///
    /// More lengths than can be counted.
    pub fn merge(&mut self, other: &Self) -> Result<(), LengthError> {
        for (column, counts) in &other.columns {
            self.check_room(column, counts.count)?;
        }
        for (column, counts) in &other.columns {
            self.column_or_new(column).merge(counts);
        }
        Ok(())
    }

    /// The columns in order of first use.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(column, _)| column.as_str())
    }

    /// How many lengths a column holds.
    ///
    /// # Errors
    ///
    /// There is no such column.
    pub fn count(&self, column: &str) -> Result<u64, LengthError> {
        self.column(column).map(|counts| counts.count)
    }

    /// The mean length, from the exact sum.
    ///
    /// # Errors
    ///
    /// There is no such column, or it is empty.
    pub fn mean(&self, column: &str) -> Result<f64, LengthError> {
        self.filled(column).map(|counts| counts.sum as f64 / counts.count as f64)
    }

    /// The shortest length.
    ///
    /// # Errors
    ///
    /// There is no such column, or it is empty.
    pub fn min(&self, column: &str) -> Result<i64, LengthError> {
        self.filled(column).map(|counts| counts.at_rank(0))
    }

    /// The longest length.
    ///
    /// # Errors
    ///
    /// There is no such column, or it is empty.
    pub fn max(&self, column: &str) -> Result<i64, LengthError> {
        self.filled(column).map(|counts| counts.at_rank(counts.count - 1))
    }

    /// The quantiles `q`, by linear interpolation between the two nearest ranks of `q (count - 1)`.
    ///
    /// # Errors
    ///
    /// There is no such column, it is empty, or a `q` is not between 0 and 1.
    pub fn quantiles(&self, column: &str, q: &[f64]) -> Result<Vec<f64>, LengthError> {
        let counts = self.filled(column)?;
        q.iter()
            .map(|&q| if (0.0..=1.0).contains(&q) { Ok(counts.quantile(q)) } else { Err(LengthError::Quantile { q }) })
            .collect()
    }

    /// How many lengths lie in each half-open bin `[edges[i], edges[i + 1])`; those outside all bins are in none.
    ///
    /// # Errors
    ///
    /// There is no such column, or the edges are fewer than two or do not rise.
    pub fn histogram(&self, column: &str, edges: &[i64]) -> Result<Vec<i64>, LengthError> {
        let counts = self.column(column)?;
        if edges.len() < 2 || edges.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(LengthError::Edges { edges: edges.to_vec() });
        }
        let mut bins = vec![0; edges.len() - 1];
        for (length, count) in counts.ascending() {
            let after = edges.partition_point(|&edge| edge <= length);
            if (1..edges.len()).contains(&after) {
                bins[after - 1] += count as i64;
            }
        }
        Ok(bins)
    }

    /// How many lengths are greater than `limit`.
    ///
    /// # Errors
    ///
    /// There is no such column.
    pub fn share_over(&self, column: &str, limit: i64) -> Result<u64, LengthError> {
        let counts = self.column(column)?;
        Ok(counts.ascending().filter(|&(length, _)| length > limit).map(|(_, count)| count).sum())
    }

    fn column(&self, column: &str) -> Result<&Counts, LengthError> {
        self.columns.iter().find(|(name, _)| name == column).map(|(_, counts)| counts).ok_or_else(|| {
            LengthError::UnknownColumn { column: column.to_owned(), known: self.columns().map(str::to_owned).collect() }
        })
    }

    fn filled(&self, column: &str) -> Result<&Counts, LengthError> {
        match self.column(column)? {
            Counts { count: 0, .. } => Err(LengthError::Empty { column: column.to_owned() }),
            counts => Ok(counts),
        }
    }

    fn column_or_new(&mut self, column: &str) -> &mut Counts {
        let at = self.columns.iter().position(|(name, _)| name == column).unwrap_or_else(|| {
            self.columns.push((column.to_owned(), Counts::default()));
            self.columns.len() - 1
        });
        &mut self.columns[at].1
    }

    /// Whether a column can count `more`: within `i64`, no count and no sum (a `u128`) can overflow.
    fn check_room(&self, column: &str, more: u64) -> Result<(), LengthError> {
        let held = self.column(column).map_or(0, |counts| counts.count);
        match held.checked_add(more) {
            Some(total) if i64::try_from(total).is_ok() => Ok(()),
            _ => Err(LengthError::TooMany { column: column.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(lengths: &[i64]) -> LengthStatistics {
        let mut statistics = LengthStatistics::new();
        statistics.add("chosen", lengths).expect("lengths that can be counted");
        statistics
    }

    #[test]
    fn a_hand_computed_column() {
        let statistics = statistics(&[5, 1, 3, 3, 100_000]);
        assert_eq!(statistics.count("chosen"), Ok(5));
        assert_eq!(statistics.mean("chosen"), Ok(20_002.4));
        assert_eq!((statistics.min("chosen"), statistics.max("chosen")), (Ok(1), Ok(100_000)));
        assert_eq!(statistics.quantiles("chosen", &[0.0, 0.125, 0.5, 0.75, 1.0]), Ok(vec![1.0, 2.0, 3.0, 5.0, 1e5]));
        assert_eq!(statistics.histogram("chosen", &[1, 3, 5, 6]), Ok(vec![1, 2, 1]));
        assert_eq!(statistics.share_over("chosen", 3), Ok(2));
        assert_eq!(statistics.share_over("chosen", -1), Ok(5));
    }

    #[test]
    fn differences_of_pairs_may_be_negative() {
        let mut statistics = LengthStatistics::new();
        statistics.add_differences("chosen - rejected", &[5, 2, 9], &[1, 8, 9]).expect("pairs");
        assert_eq!(statistics.quantiles("chosen - rejected", &[0.0, 0.5, 1.0]), Ok(vec![-6.0, 0.0, 4.0]));
        assert_eq!(statistics.share_over("chosen - rejected", 0), Ok(1));
        assert_eq!(statistics.histogram("chosen - rejected", &[-10, 0, 10]), Ok(vec![1, 2]));
        let uneven = LengthError::Pairs { column: "d".to_owned(), left: 1, right: 0 };
        assert_eq!(statistics.add_differences("d", &[1], &[]), Err(uneven));
    }

    #[test]
    fn parts_and_merges_count_like_the_whole() {
        let lengths = [0, 7, 65_535, 65_536, 7, 1 << 40, 12, 65_536];
        let whole = statistics(&lengths);
        let mut parts = statistics(&lengths[..3]);
        parts.add("chosen", &lengths[3..5]).expect("lengths that can be counted");
        parts.merge(&statistics(&lengths[5..])).expect("counts that fit");
        let q: Vec<f64> = (0..=20).map(|step| f64::from(step) / 20.0).collect();
        assert_eq!(parts.count("chosen"), whole.count("chosen"));
        assert_eq!(parts.mean("chosen"), whole.mean("chosen"));
        assert_eq!(parts.quantiles("chosen", &q), whole.quantiles("chosen", &q));
    }

    #[test]
    fn columns_come_in_order_of_first_use() {
        let mut own = statistics(&[1]);
        own.add("prompt", &[]).expect("nothing to count");
        let mut other = LengthStatistics::new();
        other.add("rejected", &[2]).expect("lengths that can be counted");
        other.add("chosen", &[3]).expect("lengths that can be counted");
        own.merge(&other).expect("counts that fit");
        assert_eq!(own.columns().collect::<Vec<_>>(), ["chosen", "prompt", "rejected"]);
        assert_eq!((own.count("chosen"), own.count("prompt")), (Ok(2), Ok(0)));
    }

    #[test]
    fn a_negative_length_is_named_and_nothing_is_counted() {
        let mut own = statistics(&[1]);
        let refused = own.add("chosen", &[4, -2]);
        assert_eq!(refused, Err(LengthError::Negative { column: "chosen".into(), row: 1, length: -2 }));
        assert_eq!(own.count("chosen"), Ok(1));
    }

    #[test]
    fn columns_without_an_answer_are_errors() {
        let empty = statistics(&[]);
        assert_eq!(empty.mean("chosen"), Err(LengthError::Empty { column: "chosen".into() }));
        assert_eq!(empty.min("chosen"), Err(LengthError::Empty { column: "chosen".into() }));
        assert_eq!(empty.quantiles("chosen", &[0.5]), Err(LengthError::Empty { column: "chosen".into() }));
        let unknown = LengthError::UnknownColumn { column: "x".into(), known: vec!["chosen".into()] };
        assert_eq!(empty.count("x"), Err(unknown));
    }

    #[test]
    fn quantiles_and_edges_out_of_range_are_errors() {
        let own = statistics(&[1, 2]);
        assert_eq!(own.quantiles("chosen", &[0.5, 1.5]), Err(LengthError::Quantile { q: 1.5 }));
        assert!(matches!(own.quantiles("chosen", &[f64::NAN]), Err(LengthError::Quantile { q }) if q.is_nan()));
        for edges in [vec![], vec![1], vec![1, 1], vec![2, 1]] {
            assert_eq!(own.histogram("chosen", &edges), Err(LengthError::Edges { edges }));
        }
    }

    #[test]
    fn counts_that_would_overflow_are_refused() {
        let (mut own, mut other) = (statistics(&[i64::MAX]), statistics(&[i64::MAX]));
        let refused = (0..100).find_map(|_| {
            own.merge(&other).err().or_else(|| {
                std::mem::swap(&mut own, &mut other);
                None
            })
        });
        assert_eq!(refused, Some(LengthError::TooMany { column: "chosen".into() }));
    }
}
