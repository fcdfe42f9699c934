//! What the surface of a text shows: lengths, formatting, punctuation, and how often given phrases stand in it.

use std::collections::HashMap;

use crate::words::hash_words;

/// The columns of [`measure`], in order.
pub const NAMES: [&str; 20] = [
    "characters",
    "words",
    "distinct_words",
    "sentences",
    "lines",
    "paragraphs",
    "list_items",
    "headings",
    "table_rows",
    "code_blocks",
    "bold_spans",
    "inline_code",
    "links",
    "digits",
    "capitals",
    "commas",
    "question_marks",
    "exclamation_marks",
    "quotation_marks",
    "emoji",
];

/// Number of columns.
pub const WIDTH: usize = NAMES.len();

/// The numbers of [`NAMES`] for one text.
///
/// Layout hold more than white space; paragraphs are lines that follow one another. List items begin with `-`, `*`, `+`,
/// a bullet or a number; headings with one to six `#`; table rows with a bar and have a second one. Layout inside a fence
/// of three backticks or tildes are none of these. Bold and inline code count where they open and close on one line.
#[must_use]
pub fn measure(text: &str) -> [i32; WIDTH] {
    let mut words = Vec::new();
    measure_with(text, &mut words)
}

/// [`measure`] of many texts, row by row.
#[must_use]
pub fn measure_all<T: AsRef<str>>(texts: &[T]) -> Vec<i32> {
    let mut words = Vec::new();
    texts.iter().flat_map(|text| measure_with(text.as_ref(), &mut words)).collect()
}

fn measure_with(text: &str, words: &mut Vec<u64>) -> [i32; WIDTH] {
    hash_words(text, words);
    let num_words = words.len();
    words.sort_unstable();
    words.dedup();
    let letters = Letters::of(text);
    let layout = Layout::of(text);
    let links = text.matches("http://").count() + text.matches("https://").count() + bare_links(text);
    [
        letters.all,
        num_words,
        words.len(),
        letters.sentence_ends,
        layout.filled,
        layout.paragraphs,
        layout.list_items,
        layout.headings,
        layout.table_rows,
        layout.fences.div_ceil(2),
        layout.bold_spans,
        layout.inline_code,
        links,
        letters.digits,
        letters.capitals,
        letters.commas,
        letters.questions,
        letters.exclamations,
        letters.quotes,
        letters.emoji,
    ]
    .map(|count| i32::try_from(count).unwrap_or(i32::MAX))
}

/// Addresses without a scheme.
fn bare_links(text: &str) -> usize {
    text.match_indices("www.").filter(|&(at, _)| !text[..at].ends_with('/')).count()
}

#[derive(Default)]
struct Letters {
    all: usize,
    sentence_ends: usize,
    digits: usize,
    capitals: usize,
    commas: usize,
    questions: usize,
    exclamations: usize,
    quotes: usize,
    emoji: usize,
}

impl Letters {
    fn of(text: &str) -> Self {
        let mut counts = Self::default();
        let mut after_stop = false; // a sentence ends where white space or nothing follows . ! ? or an ellipsis
        for letter in text.chars() {
            counts.all += 1;
            if after_stop && letter.is_whitespace() {
                counts.sentence_ends += 1;
            }
            after_stop = false;
            match letter {
                'A'..='Z' => counts.capitals += 1,
                '0'..='9' => counts.digits += 1,
                '.' | '\u{2026}' => after_stop = true,
                '?' => (counts.questions, after_stop) = (counts.questions + 1, true),
                '!' => (counts.exclamations, after_stop) = (counts.exclamations + 1, true),
                ',' | '\u{3001}' | '\u{ff0c}' | '\u{60c}' => counts.commas += 1,
                '"' | '\u{201c}'..='\u{201f}' | '\u{ab}' | '\u{bb}' | '\u{300c}'..='\u{300f}' => counts.quotes += 1,
                '\u{3002}' | '\u{964}' | '\u{6d4}' => counts.sentence_ends += 1, // Chinese, Hindi and Urdu full stops
                '\u{ff1f}' | '\u{61f}' => {
                    counts.questions += 1;
                    counts.sentence_ends += 1;
                }
                '\u{ff01}' => {
                    counts.exclamations += 1;
                    counts.sentence_ends += 1;
                }
                _ if letter.is_ascii() => {}
                '\u{2600}'..='\u{27bf}' | '\u{1f1e6}'..='\u{1f1ff}' | '\u{1f300}'..='\u{1faff}' => counts.emoji += 1,
                _ if letter.is_uppercase() => counts.capitals += 1,
                _ if letter.is_numeric() => counts.digits += 1,
                _ => {}
            }
        }
        counts.sentence_ends += usize::from(after_stop);
        counts
    }
}

#[derive(Default)]
struct Layout {
    filled: usize,
    paragraphs: usize,
    list_items: usize,
    headings: usize,
    table_rows: usize,
    fences: usize,
    bold_spans: usize,
    inline_code: usize,
}

impl Layout {
    fn of(text: &str) -> Self {
        let mut counts = Self::default();
        let (mut in_paragraph, mut in_code) = (false, false);
        for line in text.split('\n') {
            let line = line.trim();
            if line.is_empty() {
                in_paragraph = false;
                continue;
            }
            counts.filled += 1;
            counts.paragraphs += usize::from(!in_paragraph);
            in_paragraph = true;
            if line.starts_with("```") || line.starts_with("~~~") {
                counts.fences += 1;
                in_code = !in_code;
            } else if !in_code {
                counts.list_items += usize::from(is_list_item(line));
                counts.headings += usize::from(is_heading(line));
                counts.table_rows += usize::from(line.starts_with('|') && line[1..].contains('|'));
                counts.bold_spans += line.matches("**").count() / 2;
                counts.inline_code += line.matches('`').count() / 2;
            }
        }
        counts
    }
}

fn is_list_item(line: &str) -> bool {
    if let Some(rest) = line.strip_prefix(['-', '*', '+', '\u{2022}', '\u{25e6}', '\u{25cf}']) {
        return rest.starts_with([' ', '\t']);
    }
    let rest = line.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let num_digits = line.len() - rest.len();
    (1..=3).contains(&num_digits)
        && match rest.strip_prefix(['.', ')']) {
            Some(rest) => rest.starts_with([' ', '\t']),
            None => rest.starts_with(['\u{3001}', '\u{ff0e}', '\u{ff09}']), // 1、 as Chinese lists are numbered
        }
}

fn is_heading(line: &str) -> bool {
    let rest = line.trim_start_matches('#');
    (1..=6).contains(&(line.len() - rest.len())) && rest.starts_with([' ', '\t'])
}

/// Lists of phrases to be counted in texts, compared word by word: capital letters and punctuation do not count.
#[derive(Debug)]
pub struct Phrases {
    num_lists: usize,
    /// By the first word's hash: the other words, and the list.
    by_first: HashMap<u64, Vec<(Vec<u64>, usize)>>,
}

impl Phrases {
    /// Keeps lists of phrases; a phrase without a word is never found.
    #[must_use]
    pub fn new<T: AsRef<str>>(lists: &[Vec<T>]) -> Self {
        let mut by_first: HashMap<u64, Vec<(Vec<u64>, usize)>> = HashMap::new();
        let mut words = Vec::new();
        for (list, phrases) in lists.iter().enumerate() {
            for phrase in phrases {
                hash_words(phrase.as_ref(), &mut words);
                if let Some((&first, rest)) = words.split_first() {
                    by_first.entry(first).or_default().push((rest.to_vec(), list));
                }
            }
        }
        Self { num_lists: lists.len(), by_first }
    }

    /// For each text and list, how many phrases begin in the text's first `within` words.
    #[must_use]
    pub fn count<T: AsRef<str>>(&self, texts: &[T], within: usize) -> Vec<i32> {
        let mut counts = vec![0_i32; texts.len() * self.num_lists];
        let mut words = Vec::new();
        for (text, counts) in texts.iter().zip(counts.chunks_exact_mut(self.num_lists.max(1))) {
            hash_words(text.as_ref(), &mut words);
            for (at, word) in words.iter().enumerate().take(within) {
                for (rest, list) in self.by_first.get(word).into_iter().flatten() {
                    if words[at + 1..].starts_with(rest) {
                        counts[*list] = counts[*list].saturating_add(1);
                    }
                }
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, name: &str) -> i32 {
        measure(text)[NAMES.iter().position(|&own| own == name).expect("a column")]
    }

    #[test]
    fn a_hand_counted_text() {
        let text = "# Rivers\n\nThe **Rhine**, the `Po`. See https://a.example/www.x and www.b.example!\n- one\n2) two\n\
                    ```\n# no heading\n- no item\n```\n| a | b |\nReally? \u{1f600}";
        let expected = [
            ("characters", text.chars().count() as i32),
            ("words", 25),
            ("sentences", 3),
            ("lines", 10),
            ("paragraphs", 2),
            ("list_items", 2),
            ("headings", 1),
            ("table_rows", 1),
            ("code_blocks", 1),
            ("bold_spans", 1),
            ("inline_code", 1),
            ("links", 2),
            ("digits", 1),
            ("capitals", 6),
            ("commas", 1),
            ("question_marks", 1),
            ("exclamation_marks", 1),
            ("emoji", 1),
        ];
        for (name, count) in expected {
            assert_eq!(of(text, name), count, "{name}");
        }
    }

    #[test]
    fn other_scripts_have_their_own_marks() {
        let text = "1\u{3001}\u{5199}\u{4e00}\u{9996}\u{8bd7}\u{3002}\u{597d}\u{5417}\u{ff1f}\u{597d}\u{ff01}";
        assert_eq!(["words", "sentences", "list_items", "question_marks"].map(|name| of(text, name)), [8, 3, 1, 1]);
        assert_eq!(["distinct_words", "commas", "digits"].map(|name| of(text, name)), [7, 1, 1]);
    }

    #[test]
    fn an_empty_text_has_nothing() {
        assert_eq!(measure(""), [0; WIDTH]);
        assert_eq!(measure_all::<&str>(&[]), Vec::<i32>::new());
    }

    #[test]
    fn phrases_are_found_whatever_stands_between_their_words() {
        let phrases = Phrases::new(&[vec!["I'm sorry", "sorry", "?"], vec!["\u{62b1}\u{6b49}"]]);
        let texts = ["i\u{2019}M  SORRY, so sorry", "\u{5f88}\u{62b1}\u{6b49}\u{3002}", ""];
        assert_eq!(phrases.count(&texts, 100), [3, 0, 0, 1, 0, 0]);
        assert_eq!(phrases.count(&texts, 2), [1, 0, 0, 1, 0, 0]); // "sorry" is the third word
    }

    #[test]
    fn no_lists_count_nothing() {
        assert_eq!(Phrases::new::<&str>(&[]).count(&["a"], 9), Vec::<i32>::new());
    }
}
