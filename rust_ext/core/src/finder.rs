//! Whether one of some short texts stands in another: special tokens in contents, marks in rows.

/// How many bytes are compared at once with what the texts begin with.
const BLOCK: usize = 64;
/// With more beginnings, each byte is looked up instead.
const MOST_FIRSTS: usize = 6;

/// Short texts to be looked for in others.
#[derive(Debug, Clone)]
pub struct Finder {
    by_first: Vec<Vec<Vec<u8>>>,
    firsts: Vec<u8>,
    ignores_case: bool,
}

impl Finder {
    /// `ignores_case`: of ASCII letters but a text's first one.
    #[must_use]
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>, ignores_case: bool) -> Self {
        let mut by_first = vec![Vec::new(); 256];
        let mut firsts = Vec::new();
        for text in texts {
            if let Some(&first) = text.as_bytes().first() {
                by_first[usize::from(first)].push(text.as_bytes().to_vec());
                if !firsts.contains(&first) {
                    firsts.push(first);
                }
            }
        }
        Self { by_first, firsts, ignores_case }
    }

    /// Whether one of the texts stands in these bytes.
    #[must_use]
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        bytes.chunks(BLOCK).enumerate().any(|(number, block)| {
            self.may_begin_in(block) && (0..block.len()).any(|at| self.begins(&bytes[number * BLOCK + at..], block[at]))
        })
    }

    /// Whether a byte of the block begins a text; without branches, so that many bytes are compared at once.
    fn may_begin_in(&self, block: &[u8]) -> bool {
        self.firsts.len() > MOST_FIRSTS
            || self
                .firsts
                .iter()
                .any(|&first| block.iter().fold(0, |found, &byte| found | u8::from(byte == first)) != 0)
    }

    fn begins(&self, bytes: &[u8], first: u8) -> bool {
        self.by_first[usize::from(first)].iter().any(|text| {
            bytes
                .get(..text.len())
                .is_some_and(|found| if self.ignores_case { found.eq_ignore_ascii_case(text) } else { found == text })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_it_stands() {
        let finder = Finder::new(["</s>", "<think", "\u{e9}t\u{e9}"], false);
        for (text, cut) in [("</s>", "</s"), ("<think", "<thin"), ("\u{e9}t\u{e9}", "\u{e9}t")] {
            for before in 0..200 {
                let before = "a<".repeat(before);
                assert!(finder.is_in(format!("{before}{text} behind").as_bytes()));
                assert!(!finder.is_in(format!("{before}{cut}").as_bytes()));
            }
        }
        assert!(!finder.is_in(b"") && !finder.is_in(b"</S>") && !Finder::new([""], false).is_in(b"a"));
    }

    #[test]
    fn case_is_ignored_behind_the_first_letter() {
        let finder = Finder::new(["<no", "Human:"], true);
        assert!(finder.is_in(b"a <NO input>") && finder.is_in(b"HUMAN:") && !finder.is_in(b"human:"));
    }

    #[test]
    fn more_beginnings_than_are_compared_at_once_are_found_too() {
        let texts = ["a1", "b1", "c1", "d1", "e1", "f1", "g1", "h1"];
        let finder = Finder::new(texts, false);
        assert!(texts.iter().all(|text| finder.is_in(format!("{}{text}", "-".repeat(99)).as_bytes())));
        assert!(!finder.is_in("a2 1a".as_bytes()));
    }
}
