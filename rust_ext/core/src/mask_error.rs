//! Why no labels can be given.

use std::error;
use std::fmt;

/// Why no labels can be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaskError {
    TokensDisagree { ids: usize, starts: usize, ends: usize },
    RowsDisagree { tokens: usize, spans: usize },
    OffsetsEmpty { name: &'static str },
    OffsetsBegin { name: &'static str, begin: i64 },
    OffsetsFall { name: &'static str, row: usize, begin: i64, end: i64 },
    OffsetsEnd { name: &'static str, end: i64, len: usize },
    Token { row: usize, token: usize, start: i64, end: i64 },
    Span { row: usize, span: usize, start: i64, end: i64 },
    SpanOrder { row: usize, span: usize, start: i64, previous_end: i64 },
    TextsDisagree { tokens: usize, texts: usize },
    UnknownId { row: usize, token: usize, id: i32 },
}

impl fmt::Display for MaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokensDisagree { ids, starts, ends } => {
                write!(f, "{ids} ids, {starts} starts and {ends} ends: each token needs one of each")
            }
            Self::RowsDisagree { tokens, spans } => {
                write!(f, "row_offsets hold {tokens} rows, span_offsets {spans}: both need every row")
            }
            Self::OffsetsEmpty { name } => write!(f, "{name} are empty: they hold one entry more than there are rows"),
            Self::OffsetsBegin { name, begin } => write!(f, "row 0: {name} begin at {begin}, not at 0"),
            Self::OffsetsFall { name, row, begin, end } => {
                write!(f, "row {row}: {name} fall from {begin} to {end}")
            }
            Self::OffsetsEnd { name, end, len } => {
                write!(f, "{name} end at {end}, but there are {len} entries to divide among the rows")
            }
            Self::Token { row, token, start, end } => {
                write!(f, "row {row}: token {token} lies at [{start}, {end}), which is no stretch of text")
            }
            Self::Span { row, span, start, end } => {
                write!(f, "row {row}: span {span} lies at [{start}, {end}), which is no stretch of text")
            }
            Self::TextsDisagree { tokens, texts } => {
                write!(f, "row_offsets hold {tokens} rows, text_lengths {texts}: both need every row")
            }
            Self::UnknownId { row, token, id } => {
                write!(f, "row {row}: token {token} has the id {id}, which the vocabulary does not have")
            }
            Self::SpanOrder { row, span, start, previous_end } => {
                write!(
                    f,
                    "row {row}: span {span} begins at {start}, before the end {previous_end} of the one before it: \
                     spans must be sorted and must not overlap"
                )
            }
        }
    }
}

impl error::Error for MaskError {}
