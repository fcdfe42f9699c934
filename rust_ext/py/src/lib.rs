//! alignkit._native: converts, releases the interpreter, calls the core, converts back. Documented in `_native.pyi`.

#![allow(clippy::needless_pass_by_value)] // pyo3 hands arguments over by value

mod layout;
mod lengths;
mod overlap;
mod splice;
mod texts;

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use alignkit_core::masks::{Ids, Spans, Tokens};

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::layout::lay_out;
    #[pymodule_export]
    use super::lengths::LengthStatistics;
    #[pymodule_export]
    use super::overlap::OverlapIndex;
    #[pymodule_export]
    use super::splice::Splicer;
    #[pymodule_export]
    use super::texts::{
        Finder, count_phrases, hashed_ngrams, near_duplicates, scripts_and_languages, shared_runs, text_measures,
    };
    #[pymodule_export]
    use super::{mask_labels, pack_trees, score_bytes, share_rows};
    #[pymodule_export]
    const TEXT_MEASURES: [&str; alignkit_core::measures::WIDTH] = alignkit_core::measures::NAMES;
}

#[pyfunction]
fn mask_labels<'py>(
    py: Python<'py>,
    ids: PyReadonlyArray1<'py, i32>,
    starts: PyReadonlyArray1<'py, i64>,
    ends: PyReadonlyArray1<'py, i64>,
    row_offsets: PyReadonlyArray1<'py, i64>,
    spans: PyReadonlyArray2<'py, i64>,
    span_offsets: PyReadonlyArray1<'py, i64>,
) -> PyResult<Bound<'py, PyArray1<i32>>> {
    if spans.shape()[1] != 2 || !spans.is_c_contiguous() {
        return Err(PyValueError::new_err("spans must have the shape [m, 2], in C order"));
    }
    let tokens = Tokens {
        ids: ids.as_slice()?,
        starts: starts.as_slice()?,
        ends: ends.as_slice()?,
        row_offsets: row_offsets.as_slice()?,
    };
    let spans = Spans { spans: spans.as_slice()?.as_chunks().0, row_offsets: span_offsets.as_slice()? };
    let labels = py.detach(|| alignkit_core::masks::mask_labels(&tokens, &spans)).map_err(value_error)?;
    Ok(labels.into_pyarray(py))
}

type Scores<'py> = (Bound<'py, PyArray1<bool>>, Bound<'py, PyArray1<i64>>);

#[pyfunction]
fn score_bytes<'py>(
    py: Python<'py>,
    ids: PyReadonlyArray1<'py, i32>,
    row_offsets: PyReadonlyArray1<'py, i64>,
    token_lengths: PyReadonlyArray1<'py, i32>,
    text_lengths: PyReadonlyArray1<'py, i64>,
    spans: PyReadonlyArray2<'py, i64>,
    span_offsets: PyReadonlyArray1<'py, i64>,
) -> PyResult<Scores<'py>> {
    if spans.shape()[1] != 2 || !spans.is_c_contiguous() {
        return Err(PyValueError::new_err("spans must have the shape [m, 2], in C order"));
    }
    let tokens = Ids {
        ids: ids.as_slice()?,
        row_offsets: row_offsets.as_slice()?,
        token_lengths: token_lengths.as_slice()?,
        text_lengths: text_lengths.as_slice()?,
    };
    let spans = Spans { spans: spans.as_slice()?.as_chunks().0, row_offsets: span_offsets.as_slice()? };
    let scores = py.detach(|| alignkit_core::masks::score_bytes(&tokens, &spans)).map_err(value_error)?;
    Ok((scores.scored.into_pyarray(py), scores.unequal_rows.into_pyarray(py)))
}

#[pyfunction]
fn pack_trees<'py>(
    py: Python<'py>,
    lengths: PyReadonlyArray1<'py, i64>,
    capacity: i64,
) -> PyResult<(Bound<'py, PyArray1<i64>>, usize)> {
    let lengths = lengths.as_slice()?;
    let packing = py.detach(|| alignkit_core::packing::pack_trees(lengths, capacity)).map_err(value_error)?;
    Ok((packing.row_of.into_pyarray(py), packing.num_rows))
}

#[pyfunction]
fn share_rows<'py>(
    py: Python<'py>,
    costs: PyReadonlyArray1<'py, i64>,
    num_ranks: usize,
    max_rows: usize,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let costs = costs.as_slice()?;
    let rank_of = py.detach(|| alignkit_core::ranks::share_rows(costs, num_ranks, max_rows)).map_err(value_error)?;
    Ok(rank_of.into_pyarray(py))
}

fn value_error(error: impl std::error::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}
