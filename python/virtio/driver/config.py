"""The configuration space of a device, as its driver reads and writes it (VIRTIO 1.4, 2.5)."""

import threading
from collections.abc import Iterator
from typing import Any

from virtio.driver.wire import DriverEnd
from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec.layout import Field, Struct
from virtio.spec.model import DeviceType

_TRIES = 100
"""A device that changes its configuration so often while it is read is out of order."""


class DriverConfig:
    """One attribute for each field that exists with the features accepted: ``config.capacity``.

    Each access reads the device. Setting an attribute writes to it, where the standard lets the driver.
    """

    __slots__ = ("_end", "_features", "_held", "_lock", "_names", "_struct", "_type")

    def __init__(self, end: DriverEnd, kind: DeviceType, features: int) -> None:
        """Read through ``end``, once the features are accepted."""
        self._end = end
        self._type = kind
        self._features = features
        self._struct = kind.config or Struct(kind.name, kind.section, ())
        self._names = {field.name: field for field in self._struct.fields if kind.has(features, field.when)}
        self._lock = threading.Lock()
        self._held = False

    def hold(self, held: bool) -> None:
        """Refuse to change anything, or do not any more."""
        self._held = held

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the fields that exist."""
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        """Whether there is a field of this name with the features accepted."""
        return name in self._names

    def __dir__(self) -> list[str]:
        """List the fields, too."""
        return sorted({*super().__dir__(), *self._names})

    def __getattr__(self, name: str) -> Any:
        """Read a field."""
        field = self._field(name)
        offset = self._struct.offset(name)
        size = field.type.size
        assert size is not None, "fields of configuration spaces have a size"
        return field.type.take(memoryview(self.read(offset, size)), {})[0]

    def __setattr__(self, name: str, value: Any) -> None:
        """Write a field."""
        if name in DriverConfig.__slots__:
            object.__setattr__(self, name, value)
            return
        field = self._field(name)
        if self._held:
            raise ConfigurationError("the device is suspended: its configuration stays as it is (3.4.1)")
        if "W" not in field.access:
            raise ConfigurationError(f"the driver must not write {name} ({self._struct.section_of(field)})")
        self._end.write_config(self._struct.offset(name), field.type.pack(value))

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes that belong together: again, if the configuration has changed meanwhile (2.5.3)."""
        with self._lock:
            for _ in range(_TRIES):
                before = self._end.config_generation
                data = self._end.read_config(offset, size)
                if self._end.config_generation == before:
                    return data
        raise ProtocolError("the configuration changes all the time", "2.5.2")

    def values(self) -> dict[str, Any]:
        """Read all fields that exist, in one piece."""
        fields = list(self._names.values())
        if not fields:
            return {}
        last = fields[-1]
        size = last.type.size or 0
        data = memoryview(self.read(0, self._struct.offset(last.name) + size))
        return {
            field.name: field.type.take(data[self._struct.offset(field.name) :], {})[0] for field in fields
        }

    def integers(self) -> dict[str, int]:
        """Read all fields that are numbers."""
        return {name: value for name, value in self.values().items() if isinstance(value, int)}

    def _field(self, name: str) -> Field:
        field = self._names.get(name)
        if field is not None:
            return field
        if any(other.name == name for other in self._struct.fields):
            needs = " or ".join(self._struct.field(name).features)
            raise AttributeError(f"{name} does not exist without {needs}, which was not accepted")
        raise AttributeError(f"the configuration of a {self._type.name} device has no {name}")
