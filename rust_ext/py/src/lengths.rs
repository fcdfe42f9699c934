//! The class `LengthStatistics`.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::value_error;

#[pyclass(module = "alignkit._native")]
#[derive(Default)]
pub struct LengthStatistics {
    core: alignkit_core::lengths::LengthStatistics,
}

#[pymethods]
impl LengthStatistics {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn add(&mut self, py: Python<'_>, column: &str, lengths: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        let lengths = lengths.as_slice()?;
        py.detach(|| self.core.add(column, lengths)).map_err(value_error)
    }

    fn add_differences(
        &mut self,
        py: Python<'_>,
        column: &str,
        left: PyReadonlyArray1<'_, i64>,
        right: PyReadonlyArray1<'_, i64>,
    ) -> PyResult<()> {
        let (left, right) = (left.as_slice()?, right.as_slice()?);
        py.detach(|| self.core.add_differences(column, left, right)).map_err(value_error)
    }

    fn merge(&mut self, py: Python<'_>, other: &Self) -> PyResult<()> {
        py.detach(|| self.core.merge(&other.core)).map_err(value_error)
    }

    fn columns(&self) -> Vec<&str> {
        self.core.columns().collect()
    }

    fn count(&self, column: &str) -> PyResult<u64> {
        self.core.count(column).map_err(value_error)
    }

    fn mean(&self, column: &str) -> PyResult<f64> {
        self.core.mean(column).map_err(value_error)
    }

    fn min(&self, column: &str) -> PyResult<i64> {
        self.core.min(column).map_err(value_error)
    }

    fn max(&self, column: &str) -> PyResult<i64> {
        self.core.max(column).map_err(value_error)
    }

    fn quantile<'py>(
        &self,
        py: Python<'py>,
        column: &str,
        q: PyReadonlyArray1<'py, f64>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let q = q.as_slice()?;
        let quantiles = py.detach(|| self.core.quantiles(column, q)).map_err(value_error)?;
        Ok(quantiles.into_pyarray(py))
    }

    fn histogram<'py>(
        &self,
        py: Python<'py>,
        column: &str,
        edges: PyReadonlyArray1<'py, i64>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let edges = edges.as_slice()?;
        let counts = py.detach(|| self.core.histogram(column, edges)).map_err(value_error)?;
        Ok(counts.into_pyarray(py))
    }

    fn share_over(&self, column: &str, limit: i64) -> PyResult<u64> {
        self.core.share_over(column, limit).map_err(value_error)
    }
}
