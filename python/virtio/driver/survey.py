"""What a device says about itself, found out without driving it (VIRTIO 1.4, 3.1.1, up to step 4)."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from virtio.driver.config import DriverConfig
from virtio.driver.wire import DriverEnd
from virtio.errors import ConfigurationError, Error
from virtio.spec import selection
from virtio.spec.core import STATUS
from virtio.spec.model import DeviceType, Feature


@dataclass(frozen=True)
class FoundQueue:
    """A queue that the device would have if all its features were accepted."""

    index: int
    name: str
    max_size: int
    """Entries at most; 0: the device does not have it after all."""


@dataclass(frozen=True)
class Survey:
    """A device as it is before anybody drives it."""

    kind: DeviceType
    offered: int
    features: Sequence[Feature]
    unknown: Sequence[int]
    """Bits that it offers and the standard does not define for its type."""
    config: dict[str, Any]
    queues: Sequence[FoundQueue]


def survey(end: DriverEnd, kind: DeviceType) -> Survey:
    """Ask a device of type ``kind`` what it has; it is reset before and afterwards."""
    if end.device_id not in (None, kind.id):
        raise ConfigurationError(f"{end.address} has device id {end.device_id}; {kind.name} has {kind.id}")
    end.reset()
    try:
        end.set_status(STATUS.ACKNOWLEDGE)
        end.set_status(STATUS.ACKNOWLEDGE | STATUS.DRIVER)
        offered = end.device_features
        features = list(selection.known(kind, offered))
        rest = offered & ~sum(feature.mask for feature in features)
        # Step 4 allows to read the configuration before features are accepted.
        config = DriverConfig(end, kind, offered)
        values = config.values() if end.config_size != 0 else {}
        numbers = {name: value for name, value in values.items() if isinstance(value, int)}
        try:
            slots = kind.slots(offered, numbers)
        except ConfigurationError:  # how many there are stands in a configuration that cannot be read
            slots = ()
        queues = [FoundQueue(slot.index, slot.name, end.max_queue_size(slot.index)) for slot in slots]
        return Survey(kind, offered, features, [bit for bit in range(128) if rest >> bit & 1], values, queues)
    finally:
        with contextlib.suppress(Error):
            end.reset()
