"""The device's end of virtqueues, and the chains that come out of them."""

from virtio._native import (
    Batch,
    BatchHandler,
    Buffers,
    CallHandler,
    Chain,
    Counters,
    Handler,
    IndirectPolicy,
    NullHandler,
    Queue,
)

__all__ = [
    "Batch",
    "BatchHandler",
    "Buffers",
    "CallHandler",
    "Chain",
    "Counters",
    "Handler",
    "IndirectPolicy",
    "NullHandler",
    "Queue",
]
