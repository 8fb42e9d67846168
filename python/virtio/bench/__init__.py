"""Measurements of the package itself, as functions that return figures."""

from virtio.bench.machine import Machine, this_machine
from virtio.bench.queue import Measurement, measure_queue

__all__ = ["Machine", "Measurement", "measure_queue", "this_machine"]
