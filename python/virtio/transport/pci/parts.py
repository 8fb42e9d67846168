"""Device parts of a function (VIRTIO 1.4, 2.14): its state in the standard's own form, and back.

Configuration space and the MSI-X table are not among them: who moves a function reads those by itself
(2.14.2). What the standard has no part for, and a device cannot do without, are two kinds of parts of our
own in the range for device types: where each queue goes on, and the state of the device behind.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from virtio.errors import ProtocolError, StateError
from virtio.spec import admin, pci
from virtio.spec.admin_data import Part
from virtio.transport.pci.function import PciFunction
from virtio.transport.pci.state import FunctionState, QueueState, unpack

TYPE = admin.PART_TYPE
QUEUE_POSITION = 0x5F0
"""Four bytes for the queue of the selector: its position, as vhost-user's VRING_BASE has it."""
DEVICE_STATE = 0x5F1
"""What ``Device.save_state`` returned."""

ORDER = (
    TYPE.DEV_FEATURES,
    TYPE.DRV_FEATURES,
    TYPE.PCI_COMMON_CFG,
    TYPE.DEVICE_STATUS,
    TYPE.VQ_CFG,
    TYPE.VQ_NOTIFY_CFG,
    QUEUE_POSITION,
    DEVICE_STATE,
)
"""In which they are got and set (2.12.1.4.4)."""

_FEATURES_SIZE = 16
_COMMON = pci.COMMON_CFG
_FIELDS = (
    "device_feature_select",
    "driver_feature_select",
    "config_msix_vector",
    "num_queues",
    "queue_select",
)
_ATTRIBUTES = {"config_msix_vector": "config_vector"}


def collect(function: PciFunction) -> list[Part]:
    """Return all parts of a function that stands still, in their order."""
    state = unpack(function.save())
    parts = [
        Part(TYPE.DEV_FEATURES, _features(function.offered), optional=True),
        Part(TYPE.DRV_FEATURES, _features(state.features)),
    ]
    for name in _FIELDS:
        size = _COMMON.field(name).type.size or 0
        value = len(state.queues) if name == "num_queues" else getattr(state, _ATTRIBUTES.get(name, name))
        parts.append(Part(TYPE.PCI_COMMON_CFG, value.to_bytes(size, "little"), _offset(name)))
    parts.append(Part(TYPE.DEVICE_STATUS, bytes([state.status])))
    for index, queue in enumerate(state.queues):
        packed = admin.PART_VQ_CFG.pack(
            queue_size=queue.size,
            vector=queue.vector,
            enabled=int(queue.ready),
            queue_desc=queue.descriptors,
            queue_driver=queue.driver,
            queue_device=queue.device,
        )
        parts.append(Part(TYPE.VQ_CFG, packed, _queue(index)))
    for index in range(len(state.queues)):
        packed = admin.PART_VQ_NOTIFY.pack(
            queue_notify_off=index, queue_notif_config_data=function.notification_value(index)
        )
        parts.append(Part(TYPE.VQ_NOTIFY_CFG, packed, _queue(index)))
    for index, queue in enumerate(state.queues):
        parts.append(Part(QUEUE_POSITION, queue.base.to_bytes(4, "little"), _queue(index)))
    parts.append(Part(DEVICE_STATE, state.device))
    return parts


def merge(function: PciFunction, state: FunctionState, parts: Sequence[Part]) -> FunctionState:
    """Return ``state`` with ``parts`` taken over; :exc:`~virtio.StateError` if they cannot be."""
    mine = {(part.kind, part.selector): part for part in collect(function)}
    state = replace(state, queues=[replace(queue) for queue in state.queues])
    takers: dict[int, Callable[[FunctionState, Part], None]] = {
        TYPE.DRV_FEATURES: _take_features,
        TYPE.PCI_COMMON_CFG: _take_field,
        TYPE.DEVICE_STATUS: _take_status,
        TYPE.VQ_CFG: _take_queue,
        QUEUE_POSITION: _take_position,
    }
    last = 0
    for part in parts:
        if part.kind not in ORDER:
            if part.optional:
                continue
            raise StateError(f"there is no device part {part.name}")
        if ORDER.index(part.kind) < last:
            raise StateError(f"the device part {part.name} is out of order (2.12.1.4.4)")
        last = ORDER.index(part.kind)
        known = mine.get((part.kind, part.selector))
        if known is None:
            raise StateError(f"the device has no part {part.name} with the selector {part.selector.hex()}")
        if part.kind == DEVICE_STATE:
            state = replace(state, device=part.value)
            continue
        if len(part.value) != len(known.value):
            raise StateError(
                f"the device part {part.name} has {len(part.value)} bytes, not {len(known.value)}"
            )
        if part.kind in (TYPE.DEV_FEATURES, TYPE.VQ_NOTIFY_CFG):
            if part.value != known.value:
                raise StateError(f"the device part {part.name} is another here, and it cannot be set")
            continue
        takers[part.kind](state, part)
    return state


def select(function: PciFunction, headers: Sequence[tuple[int, bytes]]) -> list[Part]:
    """Return those of the parts that are asked for by kind and selector; what is not there is left out."""
    wanted = set(headers)
    return [part for part in collect(function) if (part.kind, part.selector) in wanted]


def _take_features(state: FunctionState, part: Part) -> None:
    state.features = int.from_bytes(part.value, "little")


def _take_field(state: FunctionState, part: Part) -> None:
    name = next(name for name in _FIELDS if _offset(name) == part.selector)
    value = int.from_bytes(part.value, "little")
    if name == "num_queues":
        if value != len(state.queues):
            raise StateError(f"a device of {value} queues; this one has {len(state.queues)}")
    else:
        setattr(state, _ATTRIBUTES.get(name, name), value)


def _take_status(state: FunctionState, part: Part) -> None:
    state.status = part.value[0]


def _take_queue(state: FunctionState, part: Part) -> None:
    values = admin.PART_VQ_CFG.unpack(part.value)
    if values.enabled > 1:
        raise StateError(f"a queue is enabled with {values.enabled}")
    queue = state.queues[_index(part)]
    state.queues[_index(part)] = QueueState(
        values.queue_size,
        values.queue_desc,
        values.queue_driver,
        values.queue_device,
        values.vector,
        bool(values.enabled),
        queue.base,
    )


def _take_position(state: FunctionState, part: Part) -> None:
    state.queues[_index(part)].base = int.from_bytes(part.value, "little")


def _features(features: int) -> bytes:
    return features.to_bytes(_FEATURES_SIZE, "little")


def _offset(name: str) -> bytes:
    return _COMMON.offset(name).to_bytes(4, "little") + bytes(4)


def _queue(index: int) -> bytes:
    return index.to_bytes(2, "little") + bytes(6)


def _index(part: Part) -> int:
    return int.from_bytes(part.selector[:2], "little")


def headers_of(data: bytes) -> list[tuple[int, bytes]]:
    """Take a list of part headers apart, into kinds and selectors."""
    size = admin.PART_HDR.size or 0
    if len(data) % size:
        raise ProtocolError(f"{len(data)} bytes of device part headers of {size}", "2.14")
    headers = (admin.PART_HDR.unpack(data[at : at + size]) for at in range(0, len(data), size))
    return [(header.part_type, bytes(header.selector)) for header in headers]
