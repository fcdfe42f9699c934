//! Bindings of `alignkit_core::measures` and `alignkit_core::ngrams`.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use alignkit_core::measures::{self, Phrases};
use alignkit_core::ngrams;

#[pyfunction]
pub fn text_measures(py: Python<'_>, texts: Vec<PyBackedStr>) -> PyResult<Bound<'_, PyArray2<i32>>> {
    let counts = py.detach(|| measures::measure_all(&texts));
    matrix(py, counts, texts.len(), measures::WIDTH)
}

#[pyfunction]
pub fn count_phrases(
    py: Python<'_>,
    texts: Vec<PyBackedStr>,
    lists: Vec<Vec<PyBackedStr>>,
    within: usize,
) -> PyResult<Bound<'_, PyArray2<i32>>> {
    let counts = py.detach(|| Phrases::new(&lists).count(&texts, within));
    matrix(py, counts, texts.len(), lists.len())
}

type Rows<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<i32>>);

#[pyfunction]
pub fn hashed_ngrams(py: Python<'_>, texts: Vec<PyBackedStr>, longest: usize, bits: u32) -> PyResult<Rows<'_>> {
    if longest == 0 || !(1..=31).contains(&bits) {
        return Err(PyValueError::new_err("longest must be at least 1, and bits from 1 to 31"));
    }
    let rows = py.detach(|| ngrams::hashed_ngrams(&texts, longest, bits));
    Ok((rows.offsets.into_pyarray(py), rows.buckets.into_pyarray(py), rows.counts.into_pyarray(py)))
}

fn matrix(py: Python<'_>, counts: Vec<i32>, rows: usize, columns: usize) -> PyResult<Bound<'_, PyArray2<i32>>> {
    let matrix = Array2::from_shape_vec((rows, columns), counts).map_err(crate::value_error)?;
    Ok(matrix.into_pyarray(py))
}
