//! Which texts share runs of words with a much larger set of texts, as test prompts may with training data.
//!
//! A word is a run of letters and digits in lower case; letters of scripts written without spaces (Han, kana, Thai, Lao,
//! Khmer, Burmese) are words by themselves. Every run of n words of the small set is kept as a 64-bit hash; the large set
//! streams past, so that memory does not grow with it. A text of fewer than n words is one run of all its words, found
//! where the same words stand in the same order. Two different runs share a hash once in 2^64: a share can be too high by
//! one run in some billions of billions, and never too low.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
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

/// Calls `see` with the hash of each run of `length` words; a polynomial in the words, so that it rolls.
fn for_each_run(words: &[u64], length: usize, mut see: impl FnMut(u64)) {
    if length == 0 || words.len() < length {
        return;
    }
    let leaving = (1..length).fold(1_u64, |power, _| power.wrapping_mul(FACTOR));
    let mut hash = 0_u64;
    for (at, &word) in words.iter().enumerate() {
        if at >= length {
            hash = hash.wrapping_sub(words[at - length].wrapping_mul(leaving));
        }
        hash = hash.wrapping_mul(FACTOR).wrapping_add(word);
        if at + 1 >= length {
            see(mixed(hash ^ length as u64));
        }
    }
}

/// Puts the hash of each word into `words`, which is emptied first.
fn hash_words(text: &str, words: &mut Vec<u64>) {
    words.clear();
    let mut hash = 0_u64;
    let mut open = false;
    for letter in text.chars() {
        if letter.is_ascii() {
            if letter.is_ascii_alphanumeric() {
                hash = step(hash, u64::from(letter.to_ascii_lowercase()));
                open = true;
                continue;
            }
        } else if stands_alone(letter) {
            close(&mut hash, &mut open, words);
            hash = step(0, u64::from(letter));
            open = true;
        } else if letter.is_alphanumeric() {
            for lower in letter.to_lowercase() {
                hash = step(hash, u64::from(lower));
            }
            open = true;
            continue;
        }
        close(&mut hash, &mut open, words);
    }
    close(&mut hash, &mut open, words);
}

fn close(hash: &mut u64, open: &mut bool, words: &mut Vec<u64>) {
    if *open {
        words.push(mixed(*hash));
    }
    (*hash, *open) = (0, false);
}

fn step(hash: u64, letter: u64) -> u64 {
    (hash.rotate_left(5) ^ (letter + 1)).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// The finalizer of `SplitMix64`: every bit of the input reaches every bit of the output.
fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Letters of scripts that put no spaces between words.
fn stands_alone(letter: char) -> bool {
    matches!(u32::from(letter),
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff | 0x3400..=0x4dbf | 0x4e00..=0x9fff
        | 0xf900..=0xfaff | 0x2_0000..=0x3_ffff)
        && letter.is_alphanumeric()
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
    fn rolled_hashes_are_those_of_each_run_alone() {
        let mut state = 3_u64;
        let words: Vec<u64> = (0..500)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % 7
            })
            .collect();
        for length in 1..20 {
            let mut rolled = Vec::new();
            for_each_run(&words, length, |hash| rolled.push(hash));
            let mut alone = Vec::new();
            for run in words.windows(length) {
                for_each_run(run, length, |hash| alone.push(hash));
            }
            assert_eq!(rolled, alone, "length {length}");
        }
    }
}
