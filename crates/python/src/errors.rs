//! The errors of `virtio.errors`, raised from here.

use pyo3::prelude::*;

pyo3::import_exception!(virtio.errors, ConfigurationError);
pyo3::import_exception!(virtio.errors, ProtocolError);
pyo3::import_exception!(virtio.errors, TransportError);

/// The caller asked for something that cannot be.
pub(crate) fn configuration(text: impl Into<String>) -> PyErr {
    ConfigurationError::new_err(text.into())
}

/// The wire: descriptors, mappings, waiting for the other side.
pub(crate) fn transport(text: impl Into<String>) -> PyErr {
    TransportError::new_err(text.into())
}
