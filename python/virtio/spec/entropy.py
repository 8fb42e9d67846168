"""Entropy device (5.4)."""

from __future__ import annotations

from virtio.spec.model import V1_0, DeviceType, Features, Queue

F = Features("VIRTIO_RNG_F_")

DEVICE = DeviceType(
    id=4,
    name="entropy",
    title="Entropy Device",
    section="5.4",
    since=V1_0,
    doc="gives the guest random bytes",
    features=F,
    queues=(Queue(0, "requestq", "requests", "5.4.2", "buffers that the device fills with random bytes"),),
)
