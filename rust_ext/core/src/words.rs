//! Words of a text as 64-bit hashes, and runs of them.
//!
//! A word is a run of letters and digits in lower case, with the marks that belong to them; letters of scripts written
//! without spaces (Han, kana, Thai, Lao, Khmer, Burmese) are words by themselves. Two different words share a hash once
//! in 2^64.

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Calls `see` with the hash of each run of `length` words; a polynomial in the words, so that it rolls.
pub fn for_each_run(words: &[u64], length: usize, mut see: impl FnMut(u64)) {
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
pub fn hash_words(text: &str, words: &mut Vec<u64>) {
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
        } else if open && is_mark(letter) {
            hash = step(hash, u64::from(letter));
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

pub fn step(hash: u64, letter: u64) -> u64 {
    (hash.rotate_left(5) ^ (letter + 1)).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// The finalizer of `SplitMix64`: every bit of the input reaches every bit of the output.
pub const fn mixed(mut x: u64) -> u64 {
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

/// Marks inside words that Unicode counts neither as letters nor as digits: combining accents, what joins or silences
/// letters in the scripts of India and Sri Lanka, and joiners.
fn is_mark(letter: char) -> bool {
    matches!(u32::from(letter),
        0x0300..=0x036f | 0x093c | 0x094d | 0x09bc | 0x09cd | 0x0a3c | 0x0a4d | 0x0abc | 0x0acd | 0x0b3c | 0x0b4d
        | 0x0bcd | 0x0c4d | 0x0cbc | 0x0ccd | 0x0d4d | 0x0dca | 0x1dc0..=0x1dff | 0x200c | 0x200d | 0x20d0..=0x20ff
        | 0xfe20..=0xfe2f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn num_words(text: &str) -> usize {
        let mut words = Vec::new();
        hash_words(text, &mut words);
        words.len()
    }

    #[test]
    fn marks_belong_to_the_word_they_stand_in() {
        assert_eq!(num_words("re\u{301}sume\u{301} \u{301} na\u{ef}ve"), 2);
        assert_eq!(num_words("\u{915}\u{94d}\u{92f}\u{93e} \u{939}\u{948}?"), 2); // Hindi: what is
        assert_eq!(num_words("\u{5199}\u{4e00} \u{e01}\u{e02}"), 4);
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
