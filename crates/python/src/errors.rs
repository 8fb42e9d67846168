//! The errors of `virtio.errors`, raised from here.

use pyo3::prelude::*;
use virtqueue::spec::status::DEVICE_NEEDS_RESET;

pyo3::import_exception!(virtio.errors, ConfigurationError);
pyo3::import_exception!(virtio.errors, DeviceError);
pyo3::import_exception!(virtio.errors, ProtocolError);
pyo3::import_exception!(virtio.errors, TransportError);

/// The caller asked for something that cannot be.
pub(crate) fn configuration(text: impl Into<String>) -> PyErr {
    ConfigurationError::new_err(text.into())
}

/// The device said that it needs a reset.
pub(crate) fn needs_reset(text: impl Into<String>) -> PyErr {
    DeviceError::new_err((text.into(), DEVICE_NEEDS_RESET))
}

/// The wire: descriptors, mappings, waiting for the other side.
pub(crate) fn transport(text: impl Into<String>) -> PyErr {
    TransportError::new_err(text.into())
}
