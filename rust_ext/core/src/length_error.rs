//! Why a statistic of lengths cannot be given.

use std::error;
use std::fmt;

/// Why a statistic cannot be given, or a length not be counted.
#[derive(Debug, Clone, PartialEq)]
pub enum LengthError {
    UnknownColumn { column: String, known: Vec<String> },
    Empty { column: String },
    Negative { column: String, row: usize, length: i64 },
    TooMany { column: String },
    Pairs { column: String, left: usize, right: usize },
    Quantile { q: f64 },
    Edges { edges: Vec<i64> },
}

impl fmt::Display for LengthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownColumn { column, known } => {
                write!(f, "no column {column:?}; there are: {}", known.join(", "))
            }
            Self::Empty { column } => write!(f, "column {column:?} holds no lengths"),
            Self::Negative { column, row, length } => {
                write!(f, "column {column:?}, row {row}: the negative length {length}")
            }
            Self::TooMany { column } => write!(f, "column {column:?} would hold more than {} lengths", i64::MAX),
            Self::Pairs { column, left, right } => {
                write!(f, "column {column:?}: {left} lengths against {right}: differences need as many of each")
            }
            Self::Quantile { q } => write!(f, "quantile {q}: must be between 0 and 1"),
            Self::Edges { edges } => {
                write!(f, "histogram edges {edges:?}: there must be at least two, each above the one before")
            }
        }
    }
}

impl error::Error for LengthError {}
