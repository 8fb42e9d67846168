"""The device configuration space (VIRTIO 1.4, 2.5), with an attribute per field.

::

    device.config.capacity                      # read
    device.config.capacity = 4096               # write: new generation, and the driver is told
    device.config["geometry.heads"] = 16        # fields of nested structures by dotted name
    device.config.update(cols=80, rows=25)      # several at once: one generation, one notification

The driver reads and writes bytes. Reads may have any offset and width: what lies behind the last field
reads as zero, since drivers may expect later versions' fields there and must accept padding (2.5.1). Writes
must stay within fields that the standard lets the driver write; all of a write is taken or none.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec.model import Field, Struct


class ConfigSpace:
    """The bytes, and what they mean."""

    __slots__ = ("_changed", "_data", "_fields", "_generation", "_lock", "_section")

    def __init__(self, layout: Struct | None, changed: Callable[[], None]) -> None:
        """Begin with zeros; ``changed`` is called after each change from the device's side."""
        fields: dict[str, tuple[int, Field]] = {}
        if layout is not None:
            fields.update(_flatten(layout))
        size = layout.size if layout is not None else 0
        if size is None:
            raise ConfigurationError("a configuration space has a fixed size")
        object.__setattr__(self, "_fields", fields)
        object.__setattr__(self, "_data", bytearray(size))
        object.__setattr__(self, "_generation", 0)
        object.__setattr__(self, "_changed", changed)
        object.__setattr__(self, "_lock", threading.Lock())
        object.__setattr__(self, "_section", layout.section if layout is not None else "2.5")

    # --- the device's side

    def __getattr__(self, name: str) -> Any:
        """Read a field."""
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(str(error.args[0])) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Change a field."""
        try:
            self.update(**{name: value})
        except KeyError as error:
            raise AttributeError(str(error.args[0])) from None

    def __getitem__(self, name: str) -> Any:
        """Read a field by its name, dotted if nested."""
        offset, field = self._locate(name)
        return field.type.take(memoryview(self._data)[offset:], {})[0]

    def __setitem__(self, name: str, value: Any) -> None:
        """Change a field by its name, dotted if nested."""
        self.update({name: value})

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of all fields."""
        return iter(self._fields)

    def __dir__(self) -> list[str]:
        """Offer the fields for completion."""
        return [*super().__dir__(), *(name for name in self._fields if "." not in name)]

    def __repr__(self) -> str:
        """Show all fields."""
        return f"ConfigSpace({', '.join(f'{name}={self[name]}' for name in self._fields)})"

    def update(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Change several fields in one step; equal values change nothing."""
        with self._lock:
            data = bytearray(self._data)
            for name, value in {**(values or {}), **more}.items():
                offset, field = self._locate(name)
                packed = field.type.pack(value)
                data[offset : offset + len(packed)] = packed
            if data == self._data:
                return
            # One slice store: a driver that reads meanwhile sees all of the change or nothing of it.
            self._data[:] = data
            object.__setattr__(self, "_generation", (self._generation + 1) & 0xFFFF_FFFF)
        self._changed()

    # --- the driver's side

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._data)

    @property
    def generation(self) -> int:
        """Changes whenever the device has changed a field; 32 bits, of which PCI shows eight."""
        return int(self._generation)

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly ``size`` bytes: zeros where there is no field."""
        if offset < 0 or size < 0:
            raise ConfigurationError("offset and size of a configuration read are not negative")
        return bytes(self._data[offset : offset + size]) + bytes(max(0, size - max(0, self.size - offset)))

    def write(self, offset: int, data: bytes, *, writable: Callable[[Field], bool]) -> tuple[str, ...]:
        """Store what the driver writes and return the names of the fields that it touched.

        Raises ``ProtocolError`` if a byte lies outside the fields for which ``writable`` says yes. The
        generation stays: the driver knows what it wrote.
        """
        end = offset + len(data)
        touched = []
        covered = 0
        for name, (start, field) in self._fields.items():
            width = field.type.size or 0
            overlap = min(end, start + width) - max(offset, start)
            if overlap <= 0 or isinstance(field.type, Struct):
                continue
            if not writable(field):
                raise ProtocolError(
                    f"the driver writes to the read-only configuration field {name}", self._section
                )
            touched.append(name)
            covered += overlap
        if covered != len(data):
            raise ProtocolError(
                f"the driver writes {len(data)} bytes at {offset} of a configuration space of {self.size}",
                self._section,
            )
        self._data[offset:end] = data
        return tuple(touched)

    def store(self, name: str, value: Any) -> None:
        """Change a field without a new generation: for what the driver itself brought about."""
        offset, field = self._locate(name)
        packed = field.type.pack(value)
        self._data[offset : offset + len(packed)] = packed

    # --- moving to another process

    def image(self) -> bytes:
        """Return all of it, as the driver reads it."""
        return bytes(self._data)

    def differences(self, image: bytes, *, exists: Callable[[Field], bool]) -> dict[str, Any]:
        """Return the fields, with their values there, that have other values in another's image."""
        found = {}
        for name, (start, field) in self._fields.items():
            if isinstance(field.type, Struct) or not exists(field):
                continue
            end = start + (field.type.size or 0)
            if image[start:end] != self._data[start:end]:
                found[name] = field.type.take(memoryview(image)[start:], {})[0]
        return found

    def writable(self, name: str) -> bool:
        """Whether the standard lets the driver write a field."""
        return "W" in self._locate(name)[1].access

    def continue_from(self, generation: int) -> None:
        """Count on from another's generation."""
        object.__setattr__(self, "_generation", generation & 0xFFFF_FFFF)

    def _locate(self, name: str) -> tuple[int, Field]:
        found = self._fields.get(name)
        if found is None:
            raise KeyError(
                f"the configuration space has no field {name!r}; it has {', '.join(self._fields) or 'none'}"
            )
        offset, field = found
        return int(offset), field


def _flatten(layout: Struct, start: int = 0, prefix: str = "") -> Iterator[tuple[str, tuple[int, Field]]]:
    """Yield each field with its offset, outer structures before their members."""
    for field in layout.fields:
        offset = start + layout.offset(field.name)
        yield prefix + field.name, (offset, field)
        if isinstance(field.type, Struct):
            yield from _flatten(field.type, offset, f"{prefix}{field.name}.")
