"""Disks that firmware can start: they print what is in them."""

import struct

SECTOR = 512
CLUSTER = 4 * SECTOR
_FAT_SECTORS = 32
_ROOT_ENTRIES = 512
_FIRST_CLUSTER = (1 + 2 * _FAT_SECTORS) * SECTOR + 32 * _ROOT_ENTRIES
_END = 0xFFFF

# Reads the second sector by the BIOS and sends the text in it to the serial port.
_PROGRAM = bytes.fromhex(
    "31c0 8ed8 8ec0 fc"  # ds = es = 0
    "b80102 bb007e b90200 b600 cd13"  # int 13h: one sector, to 7e00h
    "be007e"  # si = 7e00h
    "ac 84c0 7406"  # next: al = *si++; 0: end
    "baf803 ee ebf5"  # out 3f8h, al; goto next
    "f4 ebfd"  # end: halt for ever
)
# ConOut->OutputString(ConOut, the text 40h bytes from here); then it halts for ever.
_APPLICATION = bytes.fromhex("4883ec28 488b4a40 488d1531000000 ff5108 f4 ebfd")


def for_bios(text: str) -> bytes:
    """Return a disk whose boot sector prints ``text`` from its second sector."""
    first = _PROGRAM.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"
    return first + text.encode().ljust(SECTOR, b"\0") + bytes(1 << 20)


def for_uefi(text: str) -> bytes:
    """Return a FAT disk with an application that prints ``text``, where firmware looks for one."""
    disk = bytearray(16 << 20)
    parameters = struct.pack(
        "<HBHBHHBHHHII",
        SECTOR, CLUSTER // SECTOR, 1, 2, _ROOT_ENTRIES, len(disk) // SECTOR, 0xF8, _FAT_SECTORS, 32, 2, 0, 0,
    )  # fmt: skip
    label = struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 1, b"PYVIRTIO", b"FAT16   ")
    disk[:SECTOR] = (b"\xeb\x3c\x90PYVIRTIO" + parameters + label).ljust(SECTOR - 2, b"\0") + b"\x55\xaa"
    table = struct.pack("<5H", 0xFFF8, _END, _END, _END, _END)
    for copy in range(2):
        at = (1 + copy * _FAT_SECTORS) * SECTOR
        disk[at : at + len(table)] = table
    application = _application(text)
    root = (1 + 2 * _FAT_SECTORS) * SECTOR
    disk[root : root + 32] = _entry(b"EFI", 2)
    _put(disk, 2, _entry(b".", 2) + _entry(b"..", 0) + _entry(b"BOOT", 3))
    _put(disk, 3, _entry(b".", 3) + _entry(b"..", 2) + _entry(b"BOOTX64 EFI", 4, len(application)))
    _put(disk, 4, application)
    return bytes(disk)


def _entry(name: bytes, cluster: int, size: int | None = None) -> bytes:
    attributes = 0x10 if size is None else 0x20
    return struct.pack("<11sB14sHI", name.ljust(11), attributes, b"", cluster, size or 0)


def _put(disk: bytearray, cluster: int, data: bytes) -> None:
    assert len(data) <= CLUSTER
    at = _FIRST_CLUSTER + (cluster - 2) * CLUSTER
    disk[at : at + len(data)] = data


def _application(text: str) -> bytes:
    """A PE32+ program for UEFI on x86-64, with one section at 1000h."""
    code = _APPLICATION.ljust(0x40, b"\0") + f"{text}\r\n\0".encode("utf-16-le")
    header = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    header += struct.pack("<4sHHIIIHH", b"PE", 0x8664, 1, 0, 0, 0, 0xF0, 0x0206)
    header += struct.pack("<HBBIIIII", 0x20B, 0, 0, 0x200, 0, 0, 0x1000, 0x1000)
    header += struct.pack("<QIIHHHHHHIIIIHH", 0, 0x1000, 0x200, 0, 0, 0, 0, 0, 0, 0, 0x2000, 0x200, 0, 10, 0)
    header += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16) + bytes(16 * 8)
    header += struct.pack("<8sIIIIIIHHI", b".text", 0x200, 0x1000, 0x200, 0x200, 0, 0, 0, 0, 0x60000020)
    return header.ljust(0x200, b"\0") + code.ljust(0x200, b"\0")
