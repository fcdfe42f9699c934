//! Binding of `alignkit_core::splice`.

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use alignkit_core::finder;
use alignkit_core::splice::{self, Layout};

use crate::value_error;

type Texts<'py> = (
    Bound<'py, PyArray1<u8>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<bool>>,
    Bound<'py, PyArray1<bool>>,
);

#[pyclass(module = "alignkit._native")]
pub struct Splicer {
    layouts: Vec<Layout>,
    special: finder::Finder,
}

#[pymethods]
impl Splicer {
    #[new]
    fn new(special: Vec<String>) -> Self {
        Self { layouts: Vec::new(), special: finder::Finder::new(special.iter().map(String::as_str), false) }
    }

    fn add(&mut self, literals: Vec<String>, slots: Vec<usize>, spans: Vec<[(usize, usize); 2]>) -> PyResult<usize> {
        self.layouts.push(Layout::new(literals, slots, spans).map_err(value_error)?);
        Ok(self.layouts.len() - 1)
    }

    fn splice<'py>(
        &self,
        py: Python<'py>,
        which: PyReadonlyArray1<'py, i64>,
        contents: Vec<PyBackedStr>,
        content_offsets: PyReadonlyArray1<'py, i64>,
    ) -> PyResult<Texts<'py>> {
        let (which, content_offsets) = (which.as_slice()?, content_offsets.as_slice()?);
        let texts = py.detach(|| {
            let contents: Vec<&str> = contents.iter().map(|content| &**content).collect();
            splice::splice(&self.layouts, which, &contents, content_offsets, &self.special)
        });
        let texts = texts.map_err(value_error)?;
        Ok((
            texts.bytes.into_pyarray(py),
            texts.offsets.into_pyarray(py),
            texts.spans.into_flattened().into_pyarray(py),
            texts.span_offsets.into_pyarray(py),
            texts.has_special.into_pyarray(py),
            texts.is_normal.into_pyarray(py),
        ))
    }
}
