"""Test benches: devices, drivers and guests that are gone when the test is over.

:class:`Lab` holds them together; the fixtures of the pytest plugin (:mod:`virtio.pytest_plugin`) are its
methods. Whoever does not use pytest takes it as a context manager::

    with Lab() as lab:
        disk = lab.serve(virtio.BlockDevice(size=1 << 20))
        driver = lab.connect(disk)
"""

from virtio.testing.backend import BackEnd
from virtio.testing.lab import Connect, Lab, MissingError, Serve, ServeCommand, ServeProcess, StartGuest
from virtio.testing.served import Served

__all__ = [
    "BackEnd",
    "Connect",
    "Lab",
    "MissingError",
    "Serve",
    "ServeCommand",
    "ServeProcess",
    "Served",
    "StartGuest",
]
