//! Which rows have how much free space, and the least free space that is enough.
//!
//! A bit set marks the amounts of free space that some row has; a second one marks the words of the first that are not
//! empty, so that a search skips 4,096 amounts at a time. Rows of the same free space form a stack.

const NONE: usize = usize::MAX;

/// Rows by free space, from 0 to a capacity.
pub struct FreeSpace {
    /// Bit `b` of word `w`: some row has `64 w + b` free.
    words: Vec<u64>,
    /// Bit `b` of word `w`: `words[64 w + b]` is not 0.
    summary: Vec<u64>,
    /// The row on top of each amount's stack.
    top: Vec<usize>,
    /// The row below each row.
    below: Vec<usize>,
}

impl FreeSpace {
    /// No rows yet.
    pub fn new(capacity: usize) -> Self {
        let num_words = capacity / 64 + 1;
        Self {
            words: vec![0; num_words],
            summary: vec![0; num_words.div_ceil(64)],
            top: vec![NONE; capacity + 1],
            below: Vec::new(),
        }
    }

    /// Rows made so far.
    pub fn num_rows(&self) -> usize {
        self.below.len()
    }

    /// Makes a row and returns its number; it is on no stack.
    pub fn new_row(&mut self) -> usize {
        self.below.push(NONE);
        self.below.len() - 1
    }

    /// Puts a row on the stack of those with `free` left.
    pub fn push(&mut self, row: usize, free: usize) {
        self.below[row] = self.top[free];
        self.top[free] = row;
        self.words[free / 64] |= 1 << (free % 64);
        self.summary[free / 4096] |= 1 << (free / 64 % 64);
    }

    /// Takes a row with the least free space of at least `needed`, the one put there last; returns it and its space.
    pub fn pop_at_least(&mut self, needed: usize) -> Option<(usize, usize)> {
        let free = self.least(needed)?;
        let row = self.top[free];
        self.top[free] = self.below[row];
        if self.top[free] == NONE {
            self.words[free / 64] &= !(1 << (free % 64));
            if self.words[free / 64] == 0 {
                self.summary[free / 4096] &= !(1 << (free / 64 % 64));
            }
        }
        Some((row, free))
    }

    fn least(&self, needed: usize) -> Option<usize> {
        let word = needed / 64;
        let rest = self.words.get(word)? & (u64::MAX << (needed % 64));
        if rest != 0 {
            return Some(word * 64 + rest.trailing_zeros() as usize);
        }
        let word = next_bit(&self.summary, word + 1)?;
        Some(word * 64 + self.words[word].trailing_zeros() as usize)
    }
}

/// The first set bit at or after `from`.
fn next_bit(words: &[u64], from: usize) -> Option<usize> {
    let first = from / 64;
    let rest = words.get(first)? & (u64::MAX << (from % 64));
    if rest != 0 {
        return Some(first * 64 + rest.trailing_zeros() as usize);
    }
    let after = first + 1 + words[first + 1..].iter().position(|&word| word != 0)?;
    Some(after * 64 + words[after].trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_sufficient_space_is_found_across_words_and_summaries() {
        let amounts = [0, 63, 64, 4095, 4096, 9000, 300_000];
        for needed in [0, 1, 63, 64, 65, 4095, 4096, 4097, 9000, 9001, 300_000] {
            let mut space = FreeSpace::new(300_000);
            for amount in amounts {
                let row = space.new_row();
                space.push(row, amount);
            }
            let least = amounts.into_iter().filter(|&amount| amount >= needed).min();
            assert_eq!(space.pop_at_least(needed).map(|found| found.1), least, "needed {needed}");
        }
    }

    #[test]
    fn rows_of_equal_space_come_back_last_first_and_only_once() {
        let mut space = FreeSpace::new(10);
        for _ in 0..3 {
            let row = space.new_row();
            space.push(row, 7);
        }
        let rows: Vec<_> = (0..4).map(|_| space.pop_at_least(5)).collect();
        assert_eq!(rows, [Some((2, 7)), Some((1, 7)), Some((0, 7)), None]);
        assert_eq!(space.num_rows(), 3);
    }
}
