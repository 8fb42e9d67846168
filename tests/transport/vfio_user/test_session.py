"""What a server answers, message by message."""

import errno
import itertools
import json
import os
import struct
from pathlib import Path

import pytest

from virtio.transport.pci.interface import InterruptIndex, RegionIndex
from virtio.transport.vfio_user import version
from virtio.transport.vfio_user.codec import encode
from virtio.transport.vfio_user.messages import (
    COMMANDS,
    DMA_UNMAP_ALL,
    Command,
    Flag,
    IrqSet,
)
from virtio.transport.vfio_user.payloads import (
    DeviceInfo,
    DmaAccess,
    IoEventFd,
    IrqInfo,
    IrqSetting,
    RegionAccess,
    RegionInfo,
    RegionIoFds,
    pack_writes,
)

from .harness import MEMORY, Client

EINVAL = errno.EINVAL
CONFIG = RegionIndex.CONFIG


def event() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


# --- versions


@pytest.mark.parametrize("minor", [0, 1, 7])
def test_the_version_is_the_lower_one(fresh: Client, minor: int) -> None:
    hello = version.decode(fresh.call(Command.VERSION, version.encode(0, minor, {})).payload)
    assert (hello.major, hello.minor) == (0, min(minor, 1))


def test_no_more_is_answered_than_was_proposed(fresh: Client) -> None:
    # What QEMU 11.1 sends.
    proposed = {
        "pgsizes": 4096,
        "max_msg_fds": 16,
        "max_dma_maps": 65535,
        "max_data_xfer_size": 1048576,
        "migration": {"pgsize": 4096, "max_bitmap_size": 256 << 20},
        "write_multiple": True,
    }
    reply = fresh.call(Command.VERSION, version.encode(0, 0, proposed))
    answered = json.loads(reply.payload[4:-1])["capabilities"]
    assert answered == {
        "pgsizes": 4096,
        "max_msg_fds": 16,
        "max_dma_maps": 8192,
        "max_data_xfer_size": 1048576,
        "write_multiple": True,
    }


def test_a_version_without_data_is_enough(fresh: Client) -> None:
    assert fresh.call(Command.VERSION, struct.pack("=HH", 0, 1)).error == 0
    assert fresh.disconnected is None


BAD_DATA = [
    b"{",
    b"[]\0",
    b"{}\0{}\0",
    b"\xff\xfe\0",
    b'{"capabilities": 5}\0',
    b'{"capabilities": {"max_msg_fds": true}}\0',
    b'{"capabilities": {"max_msg_fds": -1}}\0',
    b'{"capabilities": {"max_msg_fds": 1e999}}\0',
    b'{"capabilities": {"max_data_xfer_size": 0}}\0',
    b'{"capabilities": {"max_data_xfer_size": 99999999999999999999999}}\0',
    b'{"capabilities": {"write_multiple": "yes"}}\0',
    b'{"capabilities": {"twin_socket": true}}\0',
    b'{"capabilities": {"pgsizes": null}}\0',
    b"[" * 8000 + b"\0",
    b'{"capabilities": {"max_msg_fds": ' + b"9" * 5000 + b"}}\0",
]


@pytest.mark.parametrize("data", BAD_DATA, ids=range(len(BAD_DATA)))
def test_nonsense_for_capabilities_ends_the_connection(fresh: Client, data: bytes) -> None:
    assert fresh.call(Command.VERSION, struct.pack("=HH", 0, 1) + data).error == EINVAL
    assert fresh.disconnected is not None


def test_another_major_version_ends_the_connection(fresh: Client) -> None:
    assert fresh.call(Command.VERSION, version.encode(1, 0, {})).error == errno.ENOTSUP
    assert fresh.disconnected is not None


@pytest.mark.parametrize("command", [command for command in COMMANDS if command is not Command.VERSION])
def test_the_version_comes_first(fresh: Client, command: Command) -> None:
    assert fresh.call(command, bytes(COMMANDS[command].least)).error == EINVAL
    assert fresh.disconnected is not None


def test_the_version_comes_once(client: Client) -> None:
    assert client.call(Command.VERSION, version.propose()).error == EINVAL
    assert client.disconnected is None


# --- what the device is


def test_the_device_is_a_pci_function_that_can_be_reset(client: Client) -> None:
    payload = client.call(Command.DEVICE_GET_INFO, DeviceInfo(16).pack()).payload
    assert DeviceInfo.unpack(payload) == DeviceInfo(16, 3, 9, 5)


def test_every_region_is_described(client: Client) -> None:
    for index, region in enumerate(client.function.regions):
        asked = RegionInfo(32, 0, index).pack()
        info = RegionInfo.unpack(client.call(Command.DEVICE_GET_REGION_INFO, asked).payload)
        assert (info.index, info.size) == (index, region.size)
        assert info.flags == (3 if region.size else 0)
    assert client.call(Command.DEVICE_GET_REGION_INFO, RegionInfo(32, 0, 9).pack()).error == EINVAL
    assert client.call(Command.DEVICE_GET_REGION_INFO, RegionInfo(31, 0, 0).pack()).error == EINVAL


def test_interrupts_are_described(client: Client) -> None:
    found = []
    for index in range(5):
        payload = client.call(Command.DEVICE_GET_IRQ_INFO, IrqInfo(16, 0, index, 0).pack()).payload
        found.append(IrqInfo.unpack(payload))
    assert [info.count for info in found] == [1, 0, 3, 1, 1]
    assert found[0].flags == 7
    assert found[2].flags == 1
    assert client.call(Command.DEVICE_GET_IRQ_INFO, IrqInfo(16, 0, 5, 0).pack()).error == EINVAL


def test_configuration_space_is_read_and_written(client: Client) -> None:
    assert client.read(CONFIG, 0, 4) == struct.pack("<HH", 0x1AF4, 0x1042)
    client.write(CONFIG, 4, b"\x06\x00")
    client.post(Command.REGION_WRITE, RegionAccess(4, CONFIG, 2).pack() + b"\x07\x00")
    assert client.read(CONFIG, 4, 2) == b"\x07\x00"
    several = pack_writes([(4, CONFIG, b"\x02\x00"), (0x3C, CONFIG, b"\x0b")])
    assert client.call(Command.REGION_WRITE_MULTI, several).payload == struct.pack("=Q", 2)
    assert (client.read(CONFIG, 4, 2), client.read(CONFIG, 0x3C, 1)) == (b"\x02\x00", b"\x0b")


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        (Command.REGION_READ, RegionAccess(0, 9, 4).pack()),
        (Command.REGION_READ, RegionAccess(4095, CONFIG, 2).pack()),
        (Command.REGION_READ, RegionAccess((1 << 64) - 1, CONFIG, 2).pack()),
        (Command.REGION_READ, RegionAccess(0, CONFIG, (1 << 20) + 1).pack()),
        (Command.REGION_READ, RegionAccess(0, RegionIndex.ROM, 1).pack()),
        (Command.REGION_WRITE, RegionAccess(0, CONFIG, 4).pack() + b"abc"),
        (Command.REGION_WRITE, RegionAccess(0, 77, 1).pack() + b"a"),
        (Command.REGION_WRITE_MULTI, struct.pack("=Q", 1)),
        (Command.REGION_WRITE_MULTI, struct.pack("=Q", 1 << 63)),
        (Command.REGION_WRITE_MULTI, struct.pack("=QQII8s", 1, 0, CONFIG, 9, b"")),
        (Command.REGION_WRITE_MULTI, struct.pack("=QQII8s", 1, 0, CONFIG, 0, b"")),
    ],
)
def test_accesses_that_cannot_be_are_refused(client: Client, command: Command, payload: bytes) -> None:
    assert client.call(command, payload).error == EINVAL
    assert client.read(CONFIG, 0, 2) == b"\xf4\x1a"


def test_a_queue_has_an_eventfd_for_its_notifications(client: Client) -> None:
    asked = RegionIoFds(4096, 0, 0, 0).pack()
    reply = client.call(Command.DEVICE_GET_REGION_IO_FDS, asked)
    head = RegionIoFds.unpack(reply.payload)
    assert head.count == len(reply.fds) == 2
    assert head.argsz == len(reply.payload) == 16 + 2 * 40
    places = [IoEventFd.unpack(reply.payload[16 + 40 * index :]) for index in range(2)]
    assert [place.fd_index for place in places] == [0, 1]
    assert [place.offset for place in places] == [one.offset for one in client.function.notifications]
    small = client.call(Command.DEVICE_GET_REGION_IO_FDS, RegionIoFds(16, 0, 0, 0).pack())
    assert (RegionIoFds.unpack(small.payload).argsz, small.fds) == (96, ())
    assert client.call(Command.DEVICE_GET_REGION_IO_FDS, RegionIoFds(4096, 1, 0, 0).pack()).error == EINVAL


# --- interrupts


def irqs(
    client: Client,
    flags: int,
    index: int,
    start: int,
    count: int,
    fds: list[int] | None = None,
    data: bytes = b"",
) -> int:
    payload = IrqSetting(20 + len(data), flags, index, start, count).pack() + data
    return client.call(Command.DEVICE_SET_IRQS, payload, fds or []).error


MSIX = InterruptIndex.MSIX
EVENTS = IrqSet.DATA_EVENTFD | IrqSet.ACTION_TRIGGER


def test_interrupts_of_every_form(client: Client) -> None:
    fds = [event() for _ in range(3)]
    try:
        assert irqs(client, EVENTS, MSIX, 0, 1) == 0  # no descriptor: no eventfd
        assert irqs(client, EVENTS, MSIX, 0, 3, fds) == 0
        assert irqs(client, IrqSet.DATA_NONE | IrqSet.ACTION_TRIGGER, MSIX, 1, 2) == 0
        assert [_count(fd) for fd in fds] == [0, 1, 1]
        assert irqs(client, IrqSet.DATA_BOOL | IrqSet.ACTION_TRIGGER, MSIX, 0, 3, None, b"\1\0\1") == 0
        assert [_count(fd) for fd in fds] == [1, 0, 1]
        assert irqs(client, EVENTS, MSIX, 2, 1) == 0  # one of them has none any more
        assert irqs(client, IrqSet.DATA_NONE | IrqSet.ACTION_TRIGGER, MSIX, 0, 3) == 0
        assert [_count(fd) for fd in fds] == [1, 1, 0]
        assert irqs(client, IrqSet.DATA_NONE | IrqSet.ACTION_TRIGGER, MSIX, 0, 0) == 0  # all off
        assert irqs(client, IrqSet.DATA_NONE | IrqSet.ACTION_TRIGGER, MSIX, 0, 3) == 0
        assert [_count(fd) for fd in fds] == [0, 0, 0]
        # Masking tells those who want to know.
        assert irqs(client, IrqSet.DATA_EVENTFD | IrqSet.ACTION_MASK, 0, 0, 1, fds[:1]) == 0
        assert irqs(client, IrqSet.DATA_NONE | IrqSet.ACTION_MASK, 0, 0, 1) == 0
        assert irqs(client, IrqSet.DATA_BOOL | IrqSet.ACTION_UNMASK, 0, 0, 1, None, b"\1") == 0
        assert [_count(fd) for fd in fds] == [1, 0, 0]
    finally:
        for fd in fds:
            os.close(fd)


def _count(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


@pytest.mark.parametrize(
    ("flags", "index", "start", "count", "fds", "data"),
    [
        (0, MSIX, 0, 1, 0, b""),
        (0x3F, MSIX, 0, 1, 0, b""),
        (IrqSet.DATA_NONE, MSIX, 0, 1, 0, b""),
        (IrqSet.DATA_NONE | IrqSet.ACTION_TRIGGER | 0x40, MSIX, 0, 1, 0, b""),
        (EVENTS, 5, 0, 1, 1, b""),
        (EVENTS, MSIX, 3, 1, 1, b""),
        (EVENTS, MSIX, 0xFFFF_FFFF, 0xFFFF_FFFF, 0, b""),
        (EVENTS, MSIX, 0, 2, 1, b""),
        (EVENTS, MSIX, 0, 1, 2, b""),
        (EVENTS, InterruptIndex.MSI, 0, 1, 1, b""),
        (IrqSet.DATA_NONE | IrqSet.ACTION_TRIGGER, MSIX, 0, 1, 1, b""),
        (IrqSet.DATA_NONE | IrqSet.ACTION_MASK, MSIX, 0, 0, 0, b""),
        (IrqSet.DATA_BOOL | IrqSet.ACTION_TRIGGER, MSIX, 0, 2, 0, b"\1"),
        (IrqSet.DATA_NONE | IrqSet.ACTION_TRIGGER, MSIX, 0, 1, 0, b"\1"),
    ],
)
def test_interrupts_that_cannot_be_are_refused(
    client: Client, flags: int, index: int, start: int, count: int, fds: int, data: bytes
) -> None:
    given = [event() for _ in range(fds)]
    try:
        assert irqs(client, flags, index, start, count, given, data) == EINVAL
    finally:
        for fd in given:
            os.close(fd)


def test_what_is_no_eventfd_is_refused(client: Client, memory: int) -> None:
    assert irqs(client, EVENTS, MSIX, 0, 1, [memory]) == EINVAL


# --- memory


def test_memory_comes_and_goes(client: Client, memory: int) -> None:
    assert client.map(0x10000, 0x10000, memory) == 0
    assert client.map(0x20000, 0x10000, memory, offset=0x10000) == 0
    os.pwrite(memory, b"across", 0x10000 - 3)
    assert client.function.memory.read(0x20000 - 3, 6) == b"across"
    assert client.unmap(0x10000, 0x10000) == 0
    assert [region.guest_address for region in client.function.memory.regions] == [0x20000]
    assert client.unmap(0, 0, DMA_UNMAP_ALL) == 0
    assert client.function.memory.regions == []


def test_memory_that_cannot_be_is_refused(client: Client, memory: int) -> None:
    assert client.map(0x10000, 0x10000, memory) == 0
    assert client.map(0x1F000, 0x2000, memory) == errno.EEXIST
    assert client.map(0xF000, 0x2000, None) == errno.EEXIST
    assert client.map(0x10000, 0x10000, memory) == errno.EEXIST
    assert client.map(0x40000, 0, memory) == EINVAL
    assert client.map((1 << 64) - 0x1000, 0x2000, memory) == EINVAL
    assert client.map(0x40000, 0x1000, memory, flags=0) == EINVAL
    assert client.map(0x40000, 0x1000, memory, flags=8) == EINVAL
    assert client.map(0x40000, 2 * MEMORY, memory) == EINVAL  # the file is shorter
    assert client.map(0x40000, 0x1000, memory, offset=1 << 63) == EINVAL
    assert client.unmap(0x10000, 0x8000) == errno.ENOENT
    assert client.unmap(0x50000, 0x1000) == errno.ENOENT
    assert client.unmap(0x10000, 0x10000, flags=1) == EINVAL
    assert client.unmap(0x10000, 0x10000) == 0


def test_memory_at_the_very_end_of_the_address_space(client: Client, memory: int) -> None:
    assert client.map((1 << 64) - 0x1000, 0x1000, None) == 0
    assert client.map((1 << 64) - 0x2000, 0x1000, memory) == 0


def test_a_read_only_window_is_not_written_to(client: Client, memory: int) -> None:
    assert client.map(0, 0x1000, memory, flags=1) == 0
    assert not client.function.memory.regions[0].writable


# --- messages by themselves


@pytest.mark.parametrize("number", [0, 14, 19, 0xFFFF, Command.DMA_READ, Command.DMA_WRITE])
def test_commands_that_are_not_a_clients_are_refused(client: Client, number: int) -> None:
    assert client.call(number, bytes(64)).error == errno.ENOTSUP
    assert client.disconnected is None


@pytest.mark.parametrize("command", list(COMMANDS)[1:])
def test_payloads_of_a_wrong_size_are_refused(client: Client, command: Command) -> None:
    expected = COMMANDS[command]
    if expected.least:
        assert client.call(command, bytes(expected.least - 1)).error == EINVAL
    assert client.call(command, bytes(expected.most + 1)).error == EINVAL
    assert client.disconnected is None


@pytest.mark.parametrize("command", list(COMMANDS))
def test_too_many_descriptors_are_refused_and_closed(client: Client, command: Command, memory: int) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    payload = bytes(COMMANDS[command].least)
    assert client.call(command, payload, [memory] * (COMMANDS[command].descriptors + 1)).error == EINVAL
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_message_comes_in_pieces(client: Client) -> None:
    data = encode(7, Command.DEVICE_GET_INFO, 0, DeviceInfo(16).pack())
    for byte in data[:-1]:
        assert client.feed(bytes([byte])) == []
    ((message, _),) = client.feed(data[-1:])
    assert message.id == 7


def test_messages_come_together(client: Client) -> None:
    data = b"".join(encode(number, Command.DEVICE_RESET, 0, b"") for number in range(5))
    assert [message.id for message, _ in client.feed(data)] == list(range(5))


@pytest.mark.parametrize("size", [0, 15, (1 << 20) + 81, 0xFFFF_FFFF])
def test_a_message_without_an_end_ends_the_connection(client: Client, size: int) -> None:
    assert client.feed(struct.pack("=HHIII", 1, 9, size, 0, 0)) == []
    assert client.disconnected is not None


def test_a_command_that_wants_no_answer_gets_none(client: Client) -> None:
    client.post(Command.REGION_WRITE, RegionAccess(1 << 40, 0, 2).pack() + b"ab")
    client.post(99)
    client.post(Command.DEVICE_RESET)


def test_answers_to_nothing_are_harmless(client: Client) -> None:
    for kind, command in itertools.product((1, 2, 15), (0, Command.DMA_READ, Command.DEVICE_RESET)):
        assert client.feed(encode(3, command, kind, DmaAccess(0, 0).pack())) == []
    assert client.feed(encode(3, Command.DMA_READ, Flag.REPLY | Flag.ERROR, b"", 5)) == []
    assert client.disconnected is None
    assert client.read(CONFIG, 0, 2) == b"\xf4\x1a"


def test_the_log_is_not_filled(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        client.call(14)
    assert len(caplog.records) == 21
