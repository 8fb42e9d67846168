"""What both ends of administration commands read and write (VIRTIO 1.4, 2.12 to 2.14)."""

from collections.abc import Iterable
from typing import NamedTuple

from virtio.errors import ProtocolError
from virtio.spec import admin
from virtio.spec.layout import Struct

HEADER = Struct("virtio_admin_cmd", admin.CMD.section, admin.CMD.fields[:4])
"""The fields at the beginning of every command; its own data follows."""
HEADER_SIZE = HEADER.size or 0
ANSWER_SIZE = 8
"""Bytes of status, qualifier and reserved fields; the result follows."""


class Part(NamedTuple):
    """A device part (2.14): some of a device's state."""

    kind: int
    """Of :data:`virtio.spec.admin.PART_TYPE`."""
    value: bytes
    selector: bytes = bytes(8)
    """Which of several parts of a kind."""
    optional: bool = False

    @property
    def name(self) -> str:
        """The name of the kind."""
        return admin.PART_TYPE.name(self.kind) or f"{self.kind:#x}"

    @property
    def header(self) -> bytes:
        """What stands before the value."""
        flags = int(self.optional) << admin.PART_BIT.OPTIONAL
        return admin.PART_HDR.pack(
            part_type=self.kind, flags=flags, selector=self.selector, length=len(self.value)
        )

    def pack(self) -> bytes:
        """Return header and value."""
        return self.header + self.value


def unpack_parts(data: bytes, *, limit: int = 1 << 16) -> list[Part]:
    """Take parts apart that stand one after another; :exc:`~virtio.ProtocolError` if they do not end so.

    Zeros behind the last, too few for another, fill a command up to a multiple of 64 bits (2.13.2).
    """
    parts: list[Part] = []
    size = admin.PART_HDR.size or 0
    while len(data) >= 8 or any(data):
        header = admin.PART_HDR.unpack(data)
        end = size + header.length
        if end > len(data) or len(parts) >= limit:
            raise ProtocolError(f"a device part of {header.length} bytes in {len(data)}", "2.14")
        optional = bool(header.flags >> admin.PART_BIT.OPTIONAL & 1)
        parts.append(Part(header.part_type, data[size:end], header.selector, optional))
        data = data[end:]
    return parts


def bits_of(numbers: Iterable[int]) -> bytes:
    """Return a set of numbers as an array of 64-bit words with a bit for each."""
    bits = sum(1 << number for number in set(numbers))
    return bits.to_bytes(8 * max(1, -(-bits.bit_length() // 64)), "little")


def numbers_of(data: bytes) -> frozenset[int]:
    """The reverse of :func:`bits_of`; what does not fill a word counts as filled up with zeros."""
    bits = int.from_bytes(data, "little")
    return frozenset(number for number in range(bits.bit_length()) if bits >> number & 1)
