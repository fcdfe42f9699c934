//! Which texts share runs of words with a much larger set of texts, as test prompts may with training data.
//!
//! Words are those of `words`. Every run of n words of the small set is kept as a 64-bit hash; the large set
//! streams past, so that memory does not grow with it. A text of fewer than n words is one run of all its words, found
//! where the same words stand in the same order. Two different runs share a hash once in 2^64: a share can be too high by
//! one run in some billions of billions, and never too low.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::words::{for_each_run, hash_words, step};

const NONE: i64 = -1;

/// The runs of the small set, and where the large set has shown them.
#[derive(Debug)]
pub struct OverlapIndex {
    /// The numbers of words in a run: the size asked for, and those of texts that have fewer.
    lengths: Vec<usize>,
    runs: HashMap<u64, usize, BuildHasherDefault<Identity>>,
    /// By run: the first text of the large set that has it, or -1.
    first_seen: Vec<i64>,
    /// The distinct runs of each text of the small set.
    texts: Vec<Vec<usize>>,
    /// By run: the texts of the small set that have it.
    homes: Vec<Vec<usize>>,
    num_scanned: i64,
}

/// How much of one text of the small set the large set has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// Distinct runs of the text.
    pub num_runs: i64,
    /// Those that were seen.
    pub num_seen: i64,
    /// The first text of the large set with one of them, or -1.
    pub first: i64,
}

impl OverlapIndex {
    /// Keeps the runs of `size` words (at least 1) of every text.
    #[must_use]
    pub fn new<T: AsRef<str>>(texts: &[T], size: usize) -> Self {
        let size = size.max(1);
        let mut index = Self {
            lengths: Vec::new(),
            runs: HashMap::default(),
            first_seen: Vec::new(),
            texts: Vec::with_capacity(texts.len()),
            homes: Vec::new(),
            num_scanned: 0,
        };
        let mut words = Vec::new();
        for text in texts {
            hash_words(text.as_ref(), &mut words);
            let length = size.min(words.len());
            if length > 0 && !index.lengths.contains(&length) {
                index.lengths.push(length);
            }
            let mut own = Vec::new();
            for_each_run(&words, length, |hash| own.push(index.number_of(hash)));
            own.sort_unstable();
            own.dedup();
            index.texts.push(own);
        }
        index.first_seen = vec![NONE; index.runs.len()];
        index.homes.resize(index.runs.len(), Vec::new());
        for (text, own) in index.texts.iter().enumerate() {
            for &run in own {
                index.homes[run].push(text);
            }
        }
        index
    }

    fn number_of(&mut self, hash: u64) -> usize {
        let next = self.runs.len();
        *self.runs.entry(hash).or_insert(next)
    }

    /// Looks for the runs in further texts of the large set.
    pub fn scan<T: AsRef<str>>(&mut self, texts: &[T]) {
        let mut words = Vec::new();
        for text in texts {
            hash_words(text.as_ref(), &mut words);
            for &length in &self.lengths {
                for_each_run(&words, length, |hash| {
                    if let Some(&run) = self.runs.get(&hash) {
                        let seen = &mut self.first_seen[run];
                        if *seen == NONE {
                            *seen = self.num_scanned;
                        }
                    }
                });
            }
            self.num_scanned += 1;
        }
    }

    /// For each of some texts: the text of the small set of which it shows the largest share of runs, and the share; -1
    /// and 0 where it shows none.
    #[must_use]
    pub fn most_shown<T: AsRef<str>>(&self, texts: &[T]) -> Vec<(i64, f64)> {
        let mut words = Vec::new();
        let mut shown: HashMap<usize, usize> = HashMap::new();
        let of = |text: &T| {
            hash_words(text.as_ref(), &mut words);
            let mut runs: Vec<usize> = Vec::new();
            for &length in &self.lengths {
                for_each_run(&words, length, |hash| runs.extend(self.runs.get(&hash)));
            }
            runs.sort_unstable();
            runs.dedup();
            shown.clear();
            for &home in runs.iter().flat_map(|&run| &self.homes[run]) {
                *shown.entry(home).or_default() += 1;
            }
            let mut best = (NONE, 0.0);
            for (&home, &num_shown) in &shown {
                let share = num_shown as f64 / self.texts[home].len() as f64;
                let is_earlier = share >= best.1 && (home as i64) < best.0;
                if share > best.1 || is_earlier {
                    best = (home as i64, share);
                }
            }
            best
        };
        texts.iter().map(of).collect()
    }

    /// What was seen of each text of the small set, in order.
    pub fn overlaps(&self) -> impl Iterator<Item = Overlap> {
        self.texts.iter().map(|runs| {
            let seen = runs.iter().map(|&run| self.first_seen[run]).filter(|&first| first != NONE);
            Overlap {
                num_runs: runs.len() as i64,
                num_seen: seen.clone().count() as i64,
                first: seen.min().unwrap_or(NONE),
            }
        })
    }
}

/// The distinct runs of two texts and those that both have. Where a text has fewer than `size` words, runs are as short
/// as it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedRuns {
    pub left: i64,
    pub right: i64,
    pub shared: i64,
}

/// Compares two texts by their runs of `size` words (at least 1); zeros where one has no word.
#[must_use]
pub fn shared_runs(left: &str, right: &str, size: usize) -> SharedRuns {
    let [left, right] = [left, right].map(|text| {
        let mut words = Vec::new();
        hash_words(text, &mut words);
        words
    });
    let length = size.max(1).min(left.len()).min(right.len());
    let [left, right] = [left, right].map(|words| {
        let mut runs = Vec::new();
        for_each_run(&words, length, |run| runs.push(run));
        runs.sort_unstable();
        runs.dedup();
        runs
    });
    let shared = left.iter().filter(|run| right.binary_search(run).is_ok()).count();
    SharedRuns { left: left.len() as i64, right: right.len() as i64, shared: shared as i64 }
}

/// The keys are hashes already.
#[derive(Default, Debug)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = step(self.0, u64::from(byte));
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlaps(small: &[&str], large: &[&str], size: usize) -> Vec<(i64, i64, i64)> {
        let mut index = OverlapIndex::new(small, size);
        for text in large {
            index.scan(&[text]);
        }
        index.overlaps().map(|o| (o.num_runs, o.num_seen, o.first)).collect()
    }

    #[test]
    fn runs_are_found_whatever_stands_between_the_words() {
        let large = ["nothing", "Well: the QUICK, brown fox... jumps!", "the quick brown"];
        // "the quick brown", "quick brown fox" and "brown fox runs"
        assert_eq!(overlaps(&["The quick brown fox runs"], &large, 3), [(3, 2, 1)]);
        assert_eq!(overlaps(&["the slow brown fox"], &large, 3), [(2, 0, -1)]);
    }

    #[test]
    fn a_short_text_is_one_run_of_all_its_words() {
        assert_eq!(overlaps(&["a river", "", "!?"], &["Name a river."], 8), [(1, 1, 0), (0, 0, -1), (0, 0, -1)]);
        assert_eq!(overlaps(&["river a"], &["Name a river."], 8), [(1, 0, -1)]);
    }

    #[test]
    fn scripts_without_spaces_are_read_letter_by_letter() {
        assert_eq!(overlaps(&["写一首诗"], &["请你写一首诗吧"], 3), [(2, 2, 0)]);
        assert_eq!(overlaps(&["ÄPFEL и Груши"], &["äpfel И груши"], 3), [(1, 1, 0)]);
    }

    #[test]
    fn a_repeated_run_counts_once() {
        assert_eq!(overlaps(&["a b a b a b"], &["b a", "a b"], 2), [(2, 2, 0)]);
    }

    #[test]
    fn two_texts_share_runs() {
        let shared = |left, right, size| {
            let runs = shared_runs(left, right, size);
            (runs.left, runs.right, runs.shared)
        };
        assert_eq!(shared("a b c d", "x b C d y", 2), (3, 4, 2));
        assert_eq!(shared("a b", "x a b y", 8), (1, 3, 1)); // runs of two words
        assert_eq!(shared("a", "", 2), (0, 0, 0));
    }

    #[test]
    fn each_text_names_what_it_shows_most_of() {
        let index = OverlapIndex::new(&["a b c d", "c d e", "c d e"], 2);
        let texts = ["x a b c", "a b c d e", "c d e f", "x y"];
        assert_eq!(index.most_shown(&texts), [(0, 2.0 / 3.0), (0, 1.0), (1, 1.0), (-1, 0.0)]);
    }
}
