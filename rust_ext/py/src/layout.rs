//! Binding of `alignkit_core::layout`.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use alignkit_core::layout::{self, Trees};

use crate::value_error;

#[pyfunction]
pub fn lay_out<'py>(
    py: Python<'py>,
    ids: PyReadonlyArray1<'py, i32>,
    scored: PyReadonlyArray1<'py, bool>,
    token_ends: PyReadonlyArray1<'py, i64>,
    segment_ends: PyReadonlyArray1<'py, i64>,
    numbers: PyReadonlyArray1<'py, i64>,
) -> PyResult<Bound<'py, PyTuple>> {
    let trees = Trees {
        ids: ids.as_slice()?,
        scored: scored.as_slice()?,
        token_ends: token_ends.as_slice()?,
        segment_ends: segment_ends.as_slice()?,
    };
    let numbers = numbers.as_slice()?;
    let row = py.detach(|| layout::lay_out(&trees, numbers)).map_err(value_error)?;
    let arrays: [Bound<'py, PyArray1<i64>>; 9] = [
        row.ids,
        row.positions,
        row.sources,
        row.targets,
        row.completions,
        row.groups,
        row.num_tokens,
        row.last,
        row.ends,
    ]
    .map(|array| array.into_pyarray(py));
    PyTuple::new(py, arrays)
}
