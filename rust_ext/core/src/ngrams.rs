//! Texts as sparse rows of hashed n-grams of words.
//!
//! An n-gram's bucket is the upper bits of its hash (Weinberger et al. 2009, arXiv 0902.2206, without their signs:
//! with as many buckets as used here, collisions are rare enough to be left alone). Words are those of `words`.

use crate::words::{for_each_run, hash_words};

/// Rows in compressed form: row `r` holds the entries `[offsets[r], offsets[r + 1])`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Where each row begins, and the end.
    pub offsets: Vec<i64>,
    /// Rising within a row.
    pub buckets: Vec<i32>,
    /// How many of the text's n-grams fall into the bucket.
    pub counts: Vec<i32>,
}

/// Counts the n-grams of 1 to `longest` words of each text in 2^`bits` buckets, `bits` from 1 to 31.
#[must_use]
pub fn hashed_ngrams<T: AsRef<str>>(texts: &[T], longest: usize, bits: u32) -> Rows {
    let shift = 64 - bits.clamp(1, 31);
    let mut rows = Rows { offsets: vec![0], ..Rows::default() };
    let (mut words, mut found) = (Vec::new(), Vec::new());
    for text in texts {
        hash_words(text.as_ref(), &mut words);
        found.clear();
        for length in 1..=longest {
            for_each_run(&words, length, |hash| found.push((hash >> shift) as i32));
        }
        found.sort_unstable();
        for same in found.chunk_by(|a, b| a == b) {
            rows.buckets.push(same[0]);
            rows.counts.push(same.len() as i32);
        }
        rows.offsets.push(rows.buckets.len() as i64);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ngram_is_counted_once() {
        let rows = hashed_ngrams(&["a b a b", "", "A"], 2, 31);
        // a, b, "a b" twice each and "b a" once; a alone
        assert_eq!(rows.offsets, [0, 4, 4, 5]);
        let mut counts = rows.counts[..4].to_vec();
        counts.sort_unstable();
        assert_eq!(counts, [1, 2, 2, 2]);
        assert!(rows.buckets[..4].contains(&rows.buckets[4]));
        assert!(rows.buckets[..4].is_sorted());
    }

    #[test]
    fn buckets_stay_within_their_number() {
        let text = (0..1000).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let rows = hashed_ngrams(&[text], 2, 4);
        assert_eq!(rows.buckets, (0..16).collect::<Vec<i32>>());
        assert_eq!(rows.counts.iter().sum::<i32>(), 1999);
    }
}
