//! The kernels of alignkit's data path and of its audit of texts, without Python.
//!
//! Ragged data come as flat slices with offsets: row `r` is `[offsets[r], offsets[r + 1])`. Integers are signed because
//! that is what callers have; what cannot be right is an error that names the row, the tree or the column.

#![forbid(unsafe_code)]

pub mod duplicates;
pub mod finder;
pub mod languages;
pub mod layout;
pub mod lengths;
pub mod masks;
pub mod measures;
pub mod ngrams;
pub mod overlap;
pub mod packing;
pub mod ranks;
pub mod splice;

mod counts;
mod free_space;
mod length_error;
mod mask_error;
mod words;
