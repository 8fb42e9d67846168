//! Python's `logging`, from native threads.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn logger(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    let logger = LOGGER.get_or_try_init(py, || -> PyResult<_> {
        Ok(py
            .import("logging")?
            .call_method1("getLogger", ("virtio.queue",))?
            .unbind())
    })?;
    Ok(logger.bind(py))
}

/// Logs an exception with its traceback. An error in logging itself goes where Python
/// sends errors that nobody can catch.
pub(crate) fn exception(py: Python<'_>, text: &str, error: &PyErr) {
    let result = (|| {
        let fields = PyDict::new(py);
        // `into_value` puts the traceback into the exception, as a raise in Python does.
        fields.set_item(intern!(py, "exc_info"), error.clone_ref(py).into_value(py))?;
        logger(py)?
            .call_method(intern!(py, "error"), ("%s", text), Some(&fields))
            .map(drop)
    })();
    if let Err(failure) = result {
        failure.write_unraisable(py, None);
    }
}

/// Logs one line as a warning.
pub(crate) fn warning(py: Python<'_>, text: &str) {
    if let Err(failure) = logger(py).and_then(|logger| {
        logger
            .call_method1(intern!(py, "warning"), ("%s", text))
            .map(drop)
    }) {
        failure.write_unraisable(py, None);
    }
}
