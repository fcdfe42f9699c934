//! Contents spliced into the layouts of their conversations, many at a time: UTF-8 texts end to end.
//!
//! A layout is the text between the contents of a rendered shape, and where its scored spans begin and end in that text.
//! Texts with a content that holds a special token are left out, for the caller to render with care. Which texts may not
//! be in Unicode's normal form C is noted: only characters that are surely normal wherever they stand are not.

use std::error;
use std::fmt;

use crate::finder::Finder;

/// A rendered shape: the text around its contents.
#[derive(Debug, Clone)]
pub struct Layout {
    /// One more than slots: what stands before the first content, between contents, and after the last.
    literals: Vec<String>,
    /// Which of a conversation's contents stands in each slot.
    slots: Vec<usize>,
    /// Each span's begin and end: a literal, and the offset in it, in bytes.
    spans: Vec<[(usize, usize); 2]>,
    is_normal: bool,
}

/// Texts end to end: text t is `bytes[offsets[t]..offsets[t + 1]]`, its spans `spans[span_offsets[t]..]`, in its bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Texts {
    pub bytes: Vec<u8>,
    pub offsets: Vec<i64>,
    pub spans: Vec<[i64; 2]>,
    pub span_offsets: Vec<i64>,
    /// Whether a content holds a special token: the text is empty then.
    pub has_special: Vec<bool>,
    /// Whether the text is surely in normal form C.
    pub is_normal: Vec<bool>,
}

/// Why nothing can be spliced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpliceError {
    Literals { literals: usize, slots: usize },
    Span { span: usize },
    UnknownLayout { text: usize, layout: i64 },
    Contents { text: usize },
}

impl fmt::Display for SpliceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literals { literals, slots } => {
                write!(f, "{literals} literals around {slots} slots: one more is needed")
            }
            Self::Span { span } => write!(f, "span {span} begins or ends in no literal"),
            Self::UnknownLayout { text, layout } => write!(f, "text {text}: there is no layout {layout}"),
            Self::Contents { text } => write!(f, "text {text}: its layout wants contents that are not there"),
        }
    }
}

impl error::Error for SpliceError {}

impl Layout {
    /// Checks and keeps a layout.
    ///
    /// # Errors
    ///
    /// Literals that do not stand around the slots, or a span outside of them.
    pub fn new(literals: Vec<String>, slots: Vec<usize>, spans: Vec<[(usize, usize); 2]>) -> Result<Self, SpliceError> {
        if literals.len() != slots.len() + 1 {
            return Err(SpliceError::Literals { literals: literals.len(), slots: slots.len() });
        }
        let is_inside = |&(literal, at): &(usize, usize)| literals.get(literal).is_some_and(|text| at <= text.len());
        if let Some(span) = spans.iter().position(|span| !span.iter().all(is_inside) || span[1] < span[0]) {
            return Err(SpliceError::Span { span });
        }
        let is_normal = literals.iter().all(|literal| is_surely_normal(literal));
        Ok(Self { literals, slots, spans, is_normal })
    }
}

/// Splices each conversation's contents into its layout.
///
/// `contents[content_offsets[t]..content_offsets[t + 1]]` are the contents of text t, `which[t]` is its layout.
///
/// # Errors
///
/// A layout or contents that are not there.
pub fn splice(
    layouts: &[Layout],
    which: &[i64],
    contents: &[&str],
    content_offsets: &[i64],
    special: &Finder,
) -> Result<Texts, SpliceError> {
    let mut texts = Texts { offsets: vec![0], span_offsets: vec![0], ..Texts::default() };
    texts.bytes.reserve(contents.iter().map(|content| content.len() + 64).sum());
    let mut starts = Vec::new();
    for (text, &number) in which.iter().enumerate() {
        let layout = usize::try_from(number).ok().and_then(|number| layouts.get(number));
        let layout = layout.ok_or(SpliceError::UnknownLayout { text, layout: number })?;
        let own = own_contents(contents, content_offsets, text).ok_or(SpliceError::Contents { text })?;
        let has_special = own.iter().any(|content| special.is_in(content.as_bytes()));
        if !has_special {
            let first = texts.bytes.len();
            starts.clear();
            for (number, literal) in layout.literals.iter().enumerate() {
                if number > 0 {
                    let content = own.get(layout.slots[number - 1]).ok_or(SpliceError::Contents { text })?;
                    texts.bytes.extend_from_slice(content.as_bytes());
                }
                starts.push(texts.bytes.len() - first);
                texts.bytes.extend_from_slice(literal.as_bytes());
            }
            let place = |(literal, at): (usize, usize)| (starts[literal] + at) as i64;
            texts.spans.extend(layout.spans.iter().map(|&[start, end]| [place(start), place(end)]));
        }
        texts.is_normal.push(layout.is_normal && own.iter().all(|content| is_surely_normal(content)));
        texts.has_special.push(has_special);
        texts.offsets.push(texts.bytes.len() as i64);
        texts.span_offsets.push(texts.spans.len() as i64);
    }
    Ok(texts)
}

/// Whether normal form C leaves the text alone for certain: none of its characters composes, decomposes or moves.
#[must_use]
pub fn is_surely_normal(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| !byte.is_ascii()) {
        let Some(char) = rest[at..].chars().next() else { break };
        if !is_surely_normal_char(char) {
            return false;
        }
        rest = &rest[at + char.len_utf8()..];
    }
    true
}

/// Characters of combining class 0 that are "Yes" in Unicode's quick check of normal form C; not all of them.
fn is_surely_normal_char(char: char) -> bool {
    matches!(char,
        '\0'..='\u{2ff}' | '\u{400}'..='\u{482}' | '\u{48a}'..='\u{52f}' | '\u{5d0}'..='\u{5ea}'
        | '\u{620}'..='\u{64a}' | '\u{2002}'..='\u{2025}' | '\u{2027}'..='\u{206f}' | '\u{20a0}'..='\u{20bf}'
        | '\u{2190}'..='\u{21ff}' | '\u{2200}'..='\u{22ff}' | '\u{2500}'..='\u{27bf}' | '\u{3000}'..='\u{3029}'
        | '\u{3041}'..='\u{3096}' | '\u{309b}'..='\u{30ff}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}'
        | '\u{ff00}'..='\u{ffef}' | '\u{1f300}'..='\u{1f64f}')
}

fn own_contents<'a, 'b>(contents: &'a [&'b str], offsets: &[i64], text: usize) -> Option<&'a [&'b str]> {
    let (start, end) = (usize::try_from(*offsets.get(text)?).ok()?, usize::try_from(*offsets.get(text + 1)?).ok()?);
    contents.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let literals = ["<u>", "</u><a>", "</a>\n"].map(String::from).to_vec();
        Layout::new(literals, vec![0, 1], vec![[(1, 7), (2, 4)]]).expect("a sound layout")
    }

    #[test]
    fn a_hand_computed_case() {
        let special = Finder::new(["</a>", "<u>"], false);
        let contents = ["hi", "y\u{e9}s", "see <u>", "no", "a", "e\u{301}"];
        let texts = splice(&[layout()], &[0, 0, 0], &contents, &[0, 2, 4, 6], &special).expect("sound contents");
        let first = "<u>hi</u><a>y\u{e9}s</a>\n";
        assert_eq!(&texts.bytes[..first.len()], first.as_bytes());
        assert_eq!(&first[12..20], "y\u{e9}s</a>");
        assert_eq!(texts.offsets[..3], [0, first.len() as i64, first.len() as i64]);
        assert_eq!((texts.spans[0], &texts.span_offsets[..]), ([12, 20], &[0, 1, 1, 2][..]));
        assert_eq!((texts.has_special, texts.is_normal), (vec![false, true, false], vec![true, true, false]));
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        let refused = |which: &[i64], offsets: &[i64]| {
            splice(&[layout()], which, &["a", "b"], offsets, &Finder::new([], false)).unwrap_err()
        };
        assert_eq!(refused(&[1], &[0, 2]), SpliceError::UnknownLayout { text: 0, layout: 1 });
        assert_eq!(refused(&[0], &[0, 1]), SpliceError::Contents { text: 0 });
        assert_eq!(refused(&[0, 0], &[0, 2, 3]), SpliceError::Contents { text: 1 });
        assert_eq!(refused(&[0], &[0]), SpliceError::Contents { text: 0 });
        assert_eq!(
            Layout::new(vec![String::new()], vec![0], vec![]).unwrap_err(),
            SpliceError::Literals { literals: 1, slots: 1 }
        );
        for span in [[(0, 0), (1, 0)], [(0, 0), (0, 9)], [(0, 1), (0, 0)]] {
            assert_eq!(Layout::new(vec!["a".into()], vec![], vec![span]).unwrap_err(), SpliceError::Span { span: 0 });
        }
    }
}
