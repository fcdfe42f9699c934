//! Bindings of the kernels over texts: what stands in them, measures, n-grams, near-duplicates, languages, shared runs.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use alignkit_core::measures::{self, Phrases};
use alignkit_core::{duplicates, finder, languages, ngrams, overlap};

#[pyclass(module = "alignkit._native", frozen)]
pub struct Finder(finder::Finder);

#[pymethods]
impl Finder {
    #[new]
    #[pyo3(signature = (texts, *, ignores_case = false))]
    fn new(texts: Vec<String>, ignores_case: bool) -> Self {
        Self(finder::Finder::new(texts.iter().map(String::as_str), ignores_case))
    }

    /// A row takes less time than to release the interpreter.
    fn is_in(&self, content: &[u8]) -> bool {
        self.0.is_in(content)
    }
}

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

type Duplicates<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<bool>>);

#[pyfunction]
pub fn near_duplicates(
    py: Python<'_>,
    prompts: Vec<PyBackedStr>,
    first: Vec<PyBackedStr>,
    second: Vec<PyBackedStr>,
    threshold: f64,
) -> PyResult<Duplicates<'_>> {
    let found = py.detach(|| duplicates::near_duplicates(&prompts, &first, &second, threshold));
    let found = found.map_err(crate::value_error)?;
    let of: Vec<_> = found.iter().map(|duplicate| duplicate.of).collect();
    let similarity: Vec<_> = found.iter().map(|duplicate| duplicate.similarity).collect();
    let is_crossed: Vec<_> = found.iter().map(|duplicate| duplicate.is_crossed).collect();
    Ok((of.into_pyarray(py), similarity.into_pyarray(py), is_crossed.into_pyarray(py)))
}

#[pyfunction]
pub fn scripts_and_languages(py: Python<'_>, texts: Vec<PyBackedStr>) -> Vec<languages::Names> {
    py.detach(|| languages::scripts_and_languages(&texts))
}

#[pyfunction]
pub fn shared_runs(
    py: Python<'_>,
    left: Vec<PyBackedStr>,
    right: Vec<PyBackedStr>,
    size: usize,
) -> PyResult<Bound<'_, PyArray2<i64>>> {
    if left.len() != right.len() {
        return Err(PyValueError::new_err(format!("{} texts have {} others", left.len(), right.len())));
    }
    let runs = py.detach(|| {
        left.iter().zip(&right).map(|(left, right)| overlap::shared_runs(left, right, size)).collect::<Vec<_>>()
    });
    let numbers: Vec<i64> = runs.iter().flat_map(|runs| [runs.left, runs.right, runs.shared]).collect();
    let matrix = Array2::from_shape_vec((runs.len(), 3), numbers).map_err(crate::value_error)?;
    Ok(matrix.into_pyarray(py))
}
