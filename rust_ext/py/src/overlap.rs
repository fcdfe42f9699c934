//! The class `OverlapIndex`.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

#[pyclass(module = "alignkit._native")]
pub struct OverlapIndex {
    core: alignkit_core::overlap::OverlapIndex,
}

type Columns<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>);

#[pymethods]
impl OverlapIndex {
    #[new]
    fn new(py: Python<'_>, texts: Vec<PyBackedStr>, size: usize) -> Self {
        Self { core: py.detach(|| alignkit_core::overlap::OverlapIndex::new(&texts, size)) }
    }

    fn scan(&mut self, py: Python<'_>, texts: Vec<PyBackedStr>) {
        py.detach(|| self.core.scan(&texts));
    }

    fn overlaps<'py>(&self, py: Python<'py>) -> Columns<'py> {
        let all: Vec<_> = self.core.overlaps().collect();
        let column = |value: fn(&alignkit_core::overlap::Overlap) -> i64| {
            all.iter().map(value).collect::<Vec<_>>().into_pyarray(py)
        };
        (column(|o| o.num_runs), column(|o| o.num_seen), column(|o| o.first))
    }

    fn most_shown<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<PyBackedStr>,
    ) -> (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f64>>) {
        let (which, share): (Vec<_>, Vec<_>) = py.detach(|| self.core.most_shown(&texts)).into_iter().unzip();
        (which.into_pyarray(py), share.into_pyarray(py))
    }
}
