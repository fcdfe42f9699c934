//! Rows that say nearly what an earlier row says.
//!
//! A row is a prompt and two answers, as sets of pairs of words that follow one another. `MinHash` signatures (Broder
//! 1997) in bands (Indyk and Motwani 1998) name candidates; every candidate is verified by the true Jaccard similarity
//! of the sets. One pass: a row is compared with the rows before it that are no copies themselves (less than 0.9
//! alike), so that a thousand copies cost a thousand comparisons. Signatures are of 126 hashes in 42 bands: of rows with a similarity of
//! 0.5 one in 250 is missed, of 0.6 one in 25,000.
//!
//! What many prompts share (instructions around a question) makes no two rows alike: pairs of words of prompts that
//! stand in more than 1 % of the prompts, and in more than 20, are left out where enough others remain.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use crate::words::{for_each_run, hash_words, mixed};

const SIZE: usize = 2; // words of a run
const BAND: usize = 3; // hashes of a band
const BANDS: usize = 42;
const HASHES: usize = BAND * BANDS;
const ESTIMATE_SLACK: f64 = 0.15; // 3.4 standard deviations of 126 hashes' estimate
const MAX_CANDIDATES: usize = 2000; // rows whose signatures are compared with one row's
const SLOT_BITS: u32 = 22;
const MIN_COMMON: usize = 20;
const MIN_KEPT: usize = 8;
const ANSWERS_ALIKE: f64 = 0.5;
const SHORT_WORDS: usize = 12;
const MOST: f64 = 0.8;
const NEARLY_EQUAL: f64 = 0.9; // what is as like an earlier row is found through that row
const CLEARLY: f64 = 0.1;
const NONE: u32 = u32::MAX;

/// What one row repeats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duplicate {
    /// The first of the rows that say nearly the same, or -1.
    pub of: i64,
    /// Jaccard similarity to the row that it was recognised by, 0 without one.
    pub similarity: f64,
    /// The first answer is the earlier row's second one, and the second its first.
    pub is_crossed: bool,
}

/// The columns are not equally long.
#[derive(Debug, PartialEq, Eq)]
pub struct UnequalColumns {
    /// Rows of each column.
    pub lengths: [usize; 3],
}

impl fmt::Display for UnequalColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [prompts, first, second] = self.lengths;
        write!(f, "there are {prompts} prompts, {first} first and {second} second answers: give as many of each")
    }
}

impl std::error::Error for UnequalColumns {}

/// Finds for each row the earlier row that it repeats: of all with a similarity of at least `threshold` whose answers
/// are alike, in either order, the most similar one.
///
/// A row that repeats a duplicate repeats what that one repeats. Two answers are alike where half the pairs of words of
/// the shorter one stand in the other; of up to 12 words also where half the words of the longer one do, or 80 % of those
/// of the shorter one. An answer that is not there is empty.
///
/// # Errors
/// The columns are not equally long.
pub fn near_duplicates<T: AsRef<str>>(
    prompts: &[T],
    first: &[T],
    second: &[T],
    threshold: f64,
) -> Result<Vec<Duplicate>, UnequalColumns> {
    let lengths = [prompts.len(), first.len(), second.len()];
    if lengths != [prompts.len(); 3] {
        return Err(UnequalColumns { lengths });
    }
    let common = Common::of(prompts);
    let texts = |row: usize| [prompts[row].as_ref(), first[row].as_ref(), second[row].as_ref()];
    let mut leaders = Leaders::default();
    let mut candidates = Vec::new();
    let mut found: Vec<Duplicate> = Vec::with_capacity(prompts.len());
    for number in 0..prompts.len() {
        let row = Row::of(texts(number), &common);
        let signature = signature(&row.all);
        leaders.candidates(&signature, threshold - ESTIMATE_SLACK, &mut candidates);
        candidates.sort_unstable(); // of equally similar rows the earliest
        let mut best = Duplicate { of: -1, similarity: 0.0, is_crossed: false };
        for &leader in candidates.iter().filter(|_| !row.all.is_empty()) {
            let earlier = Row::of(texts(leader as usize), &common);
            let similarity = jaccard(&row.all, &earlier.all);
            if similarity >= threshold && similarity > best.similarity && row.answers_like(&earlier) {
                let own = found[leader as usize];
                let of = if own.of < 0 { i64::from(leader) } else { own.of };
                best = Duplicate { of, similarity, is_crossed: row.is_crossed(&earlier) != own.is_crossed };
            }
        }
        if best.similarity < NEARLY_EQUAL {
            leaders.add(number as u32, &signature);
        }
        found.push(best);
    }
    Ok(found)
}

/// How many prompts hold a pair of words, by slots of hashes.
struct Common {
    counts: Vec<u32>,
    most: usize,
}

impl Common {
    fn of<T: AsRef<str>>(prompts: &[T]) -> Self {
        let mut counts = vec![0_u32; 1 << SLOT_BITS];
        for prompt in prompts {
            for run in Part::of(prompt.as_ref()).runs {
                counts[slot(run)] += 1;
            }
        }
        Self { counts, most: MIN_COMMON.max(prompts.len() / 100) }
    }

    fn is_rare(&self, run: u64) -> bool {
        self.counts[slot(run)] as usize <= self.most
    }
}

fn slot(run: u64) -> usize {
    (run >> (64 - SLOT_BITS)) as usize
}

/// One text: its words, sorted, and its distinct runs, sorted.
struct Part {
    words: Vec<u64>,
    runs: Vec<u64>,
}

impl Part {
    fn of(text: &str) -> Self {
        let (mut words, mut runs) = (Vec::new(), Vec::new());
        hash_words(text, &mut words);
        for_each_run(&words, SIZE.min(words.len()), |run| runs.push(run));
        runs.sort_unstable();
        runs.dedup();
        words.sort_unstable();
        Self { words, runs }
    }

    fn is_like(&self, other: &Self) -> bool {
        if self.words.is_empty() || other.words.is_empty() {
            return self.words.len() == other.words.len();
        }
        let fewer = self.runs.len().min(other.runs.len());
        if num_shared(&self.runs, &other.runs) as f64 >= ANSWERS_ALIKE * fewer as f64 {
            return true;
        }
        let (short, long) = (self.words.len().min(other.words.len()), self.words.len().max(other.words.len()));
        let shared = num_shared(&self.words, &other.words) as f64;
        short <= SHORT_WORDS && (shared >= ANSWERS_ALIKE * long as f64 || shared >= MOST * short as f64)
    }
}

/// A row's answers, and the set that stands for all of it.
struct Row {
    answers: [Part; 2],
    all: Vec<u64>,
}

impl Row {
    fn of([prompt, first, second]: [&str; 3], common: &Common) -> Self {
        let asked = Part::of(prompt).runs;
        let answers = [Part::of(first), Part::of(second)];
        let mut all: Vec<u64> = asked.iter().copied().filter(|&run| common.is_rare(run)).collect();
        if all.len() < MIN_KEPT && answers.iter().map(|answer| answer.runs.len()).sum::<usize>() < MIN_KEPT {
            all = asked;
        }
        all.extend(answers.iter().flat_map(|answer| &answer.runs));
        all.sort_unstable();
        all.dedup();
        Self { answers, all }
    }

    fn answers_like(&self, other: &Self) -> bool {
        let ([a, b], [c, d]) = (&self.answers, &other.answers);
        (a.is_like(c) && b.is_like(d)) || (a.is_like(d) && b.is_like(c))
    }

    fn is_crossed(&self, other: &Self) -> bool {
        let ([a, b], [c, d]) = (&self.answers, &other.answers);
        let both = |x: &Part, y: &Part, z: &Part, w: &Part| jaccard(&x.runs, &y.runs) + jaccard(&z.runs, &w.runs);
        both(a, d, b, c) > both(a, c, b, d) + CLEARLY
    }
}

/// Elements that two sorted lists share; of equal ones as many as both have.
fn num_shared(left: &[u64], right: &[u64]) -> usize {
    let (mut at, mut shared) = (0, 0);
    for value in left {
        while at < right.len() && right[at] < *value {
            at += 1;
        }
        if at < right.len() && right[at] == *value {
            (at, shared) = (at + 1, shared + 1);
        }
    }
    shared
}

/// The share of the elements of either set that both have; 1 for two empty sets.
fn jaccard(left: &[u64], right: &[u64]) -> f64 {
    let shared = num_shared(left, right);
    let either = left.len() + right.len() - shared;
    if either == 0 { 1.0 } else { shared as f64 / either as f64 }
}

type Signature = [u32; HASHES];

/// The least hash of the set's elements by each of 126 permutations x -> a x + b of the 32-bit numbers, a odd. The
/// elements are hashes of words, random already.
fn signature(set: &[u64]) -> Signature {
    let mut least = [u32::MAX; HASHES];
    for &element in set {
        let x = (element >> 32) as u32;
        for (number, least) in least.iter_mut().enumerate() {
            *least = (*least).min(x.wrapping_mul(FACTORS[number]).wrapping_add(OFFSETS[number]));
        }
    }
    least
}

const FACTORS: Signature = random_numbers(1, 1);
const OFFSETS: Signature = random_numbers(2, 0);

const fn random_numbers(seed: u64, low_bits: u32) -> Signature {
    let mut numbers = [0; HASHES];
    let mut number = 0;
    while number < HASHES {
        numbers[number] =
            (mixed((number as u64 + 1).wrapping_mul(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 32) as u32 | low_bits;
        number += 1;
    }
    numbers
}

/// The rows that are not nearly equal to an earlier one, in chains of those that share a band.
#[derive(Default)]
struct Leaders {
    rows: Vec<u32>,
    signatures: Vec<Signature>,
    /// By band and its hashes: the last leader with them.
    heads: HashMap<u64, u32>,
    /// By leader and band: the leader before it in the chain.
    before: Vec<[u32; BANDS]>,
    /// By leader: the last query that met it.
    met: Vec<u32>,
    num_queries: u32,
}

impl Leaders {
    /// Puts the rows that share a band and seem similar enough into `found`, which is emptied first.
    fn candidates(&mut self, signature: &Signature, at_least: f64, found: &mut Vec<u32>) {
        found.clear();
        self.num_queries += 1;
        let mut num_seen = 0;
        for band in 0..BANDS {
            let mut leader = self.heads.get(&key(signature, band)).copied().unwrap_or(NONE);
            while leader != NONE && num_seen < MAX_CANDIDATES {
                let at = leader as usize;
                if self.met[at] != self.num_queries {
                    self.met[at] = self.num_queries;
                    num_seen += 1;
                    let equal = self.signatures[at].iter().zip(signature).filter(|(a, b)| a == b).count();
                    if equal as f64 >= at_least * HASHES as f64 {
                        found.push(self.rows[at]);
                    }
                }
                leader = self.before[at][band];
            }
        }
    }

    fn add(&mut self, row: u32, signature: &Signature) {
        let number = self.rows.len() as u32;
        let mut before = [NONE; BANDS];
        for (band, before) in before.iter_mut().enumerate() {
            match self.heads.entry(key(signature, band)) {
                Entry::Occupied(mut head) => *before = head.insert(number),
                Entry::Vacant(head) => {
                    head.insert(number);
                }
            }
        }
        self.rows.push(row);
        self.signatures.push(*signature);
        self.before.push(before);
        self.met.push(0);
    }
}

fn key(signature: &Signature, band: usize) -> u64 {
    signature[band * BAND..(band + 1) * BAND].iter().fold(band as u64, |key, &hash| mixed(key ^ u64::from(hash)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "Name the longest river of Europe and say through which countries it flows to the sea";
    const LONG: &str =
        "The Volga is the longest river of Europe; it rises north of Moscow and flows to the Caspian Sea";
    const OTHER: &str = "I would say that it is the Danube, which passes ten countries on its way from Germany";

    fn found(rows: &[[&str; 3]]) -> Vec<(i64, bool)> {
        let column = |at: usize| rows.iter().map(|row| row[at]).collect::<Vec<_>>();
        let found = near_duplicates(&column(0), &column(1), &column(2), 0.5).expect("equal columns");
        found.iter().map(|duplicate| (duplicate.of, duplicate.is_crossed)).collect()
    }

    #[test]
    fn edited_copies_are_found_and_swapped_answers_are_said() {
        let edited = LONG.replace("north of Moscow", "in the north");
        let unlike = "Rivers are bodies of water that run downhill, and people like them a great deal";
        let rows = [
            [PROMPT, LONG, OTHER],
            ["How do I bake bread?", "With flour, water, salt and time.", "No."],
            [PROMPT, &edited, OTHER],
            [PROMPT, OTHER, LONG],
            [PROMPT, LONG, unlike], // another rejected answer is another pair
        ];
        assert_eq!(found(&rows), [(-1, false), (-1, false), (0, false), (0, true), (-1, false)]);
    }

    #[test]
    fn what_many_prompts_share_makes_no_duplicates() {
        let questions: Vec<String> = (0..300)
            .map(|n| {
                let words: Vec<String> = (0..10).map(|k| format!("w{}", mixed(n * 10 + k) % 100_000)).collect();
                format!("{PROMPT}. Read with care and answer with one letter only, A or B. {}", words.join(" "))
            })
            .collect();
        let rows: Vec<[&str; 3]> = questions.iter().map(|question| [question.as_str(), "A", "B"]).collect();
        assert!(found(&rows).iter().all(|&(of, _)| of < 0));
    }

    #[test]
    fn rows_without_words_repeat_nothing() {
        assert_eq!(found(&[["", "", ""], ["?", "!", ""]]), [(-1, false), (-1, false)]);
        assert_eq!(found(&[["a", "", ""], ["A!", "", ""]]), [(-1, false), (0, false)]);
    }

    #[test]
    fn signatures_estimate_the_similarity() {
        let sets: Vec<Vec<u64>> = [0..600_u64, 200..800].map(|range| range.map(mixed).collect()).into();
        let [left, right] = [signature(&sets[0]), signature(&sets[1])];
        let equal = left.iter().zip(&right).filter(|(a, b)| a == b).count();
        assert!((equal as f64 / HASHES as f64 - 0.5).abs() < 0.1, "{equal} of {HASHES}");
    }

    #[test]
    fn unequal_columns_are_refused() {
        let error = near_duplicates(&["a"], &["b"], &[], 0.5).expect_err("no second answer");
        assert_eq!(error.to_string(), "there are 1 prompts, 1 first and 0 second answers: give as many of each");
    }
}
