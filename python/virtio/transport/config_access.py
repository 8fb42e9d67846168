"""Configuration space through registers: each field by accesses of its width (VIRTIO 1.4, 4.1.3.1, 4.2.2.2).

8-bit fields are accessed by bytes, 16-bit fields by halves, 32- and 64-bit fields by words. Which field lies
where tells the device's type; bytes outside of all fields are accessed by bytes.
"""

from collections.abc import Iterator

from virtio.errors import ConfigurationError, RefusedError
from virtio.spec import device_type
from virtio.spec.layout import Array, Bits, Scalar, Struct, Type


class ConfigAccess:
    """How to access the configuration space of a type of device."""

    def __init__(self, device_id: int, window: int) -> None:
        """``window`` is as far as the registers reach, in bytes."""
        self.window = window
        self._widths: list[int] = []
        self._writable: list[bool] = []
        try:
            layout = device_type(device_id).config
        except (ConfigurationError, KeyError):  # a type that the standard does not name
            layout = None
        for field in layout.fields if layout is not None else ():
            widths = list(_widths(field.type))
            self._widths += widths
            self._writable += ["W" in field.access] * len(widths)

    def pieces(self, offset: int, size: int, *, write: bool = False) -> Iterator[tuple[int, int]]:
        """Yield offset and width of the accesses that make up ``size`` bytes from ``offset``.

        A read that begins or ends inside of a field takes bytes there; a field that is written in part is,
        too. Raises :exc:`~virtio.errors.RefusedError` for what lies outside of the window, or is not for the
        driver to write.
        """
        if offset < 0 or size < 0 or offset + size > self.window:
            raise RefusedError(f"the registers show {self.window} bytes of configuration space")
        end = offset + size
        if write and not all(self._writable[offset:end] or [False]):
            raise RefusedError(f"the driver must not write the configuration at {offset}")
        while offset < end:
            width = self._widths[offset] if offset < len(self._widths) else 1
            if offset % width or offset + width > end:
                width = 1
            yield offset, width
            offset += width


def _widths(kind: Type) -> Iterator[int]:
    """Yield, for each byte of a type, how wide the access to it is."""
    if isinstance(kind, Struct):
        for field in kind.fields:
            yield from _widths(field.type)
    elif isinstance(kind, Array):
        assert isinstance(kind.count, int)
        for _ in range(kind.count):
            yield from _widths(kind.element)
    else:
        width = (kind.base if isinstance(kind, Bits) else kind).size
        assert isinstance(kind, Bits | Scalar)
        assert width is not None
        for _ in range(width):
            yield min(width, 4)
