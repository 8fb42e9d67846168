"""Moving a function, and knowing what it has written to."""

import errno
import struct
from typing import Any

import pytest

from virtio.transport.pci.interface import RegionIndex
from virtio.transport.vfio_user.messages import (
    Command,
    Feature,
    FeatureFlag,
    MigrationState,
)
from virtio.transport.vfio_user.payloads import (
    DeviceFeature,
    DeviceState,
    LoggingReport,
    LoggingStart,
    MigrationData,
)

from .harness import MEMORY, Client

EINVAL = errno.EINVAL
CONFIG = RegionIndex.CONFIG


# --- migration


def feature(client: Client, flags: int, number: int, data: bytes = b"", argsz: int = 1 << 20) -> Any:
    reply = client.call(Command.DEVICE_FEATURE, DeviceFeature(argsz, flags | number).pack() + data)
    return reply.error or reply.payload[8:]


def go(client: Client, state: int) -> Any:
    found = feature(client, FeatureFlag.SET, Feature.MIG_DEVICE_STATE, DeviceState(state).pack())
    return DeviceState.unpack(found).state if isinstance(found, bytes) else found


def state(client: Client) -> int:
    return DeviceState.unpack(feature(client, FeatureFlag.GET, Feature.MIG_DEVICE_STATE)).state


def test_features_can_be_probed(client: Client) -> None:
    probe, get, set_ = FeatureFlag.PROBE, FeatureFlag.GET, FeatureFlag.SET
    assert feature(client, probe | get, Feature.MIGRATION) == b""
    assert feature(client, probe | get | set_, Feature.MIG_DEVICE_STATE) == b""
    assert feature(client, probe | set_, Feature.DMA_LOGGING_START) == b""
    assert feature(client, probe | get, Feature.DMA_LOGGING_START) == errno.ENOTTY
    assert feature(client, probe | get, 3) == errno.ENOTTY
    assert feature(client, get | set_, Feature.MIG_DEVICE_STATE) == EINVAL
    assert feature(client, 0, Feature.MIGRATION) == EINVAL
    assert feature(client, get | 1 << 20, Feature.MIGRATION) == EINVAL
    assert feature(client, get, Feature.MIGRATION) == struct.pack("=Q", 1)
    assert feature(client, get, Feature.MIGRATION, argsz=8) == EINVAL


S = MigrationState


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ([S.STOP, S.RUNNING], None),
        ([S.STOP_COPY, S.RUNNING], None),
        ([S.STOP_COPY, S.STOP, S.STOP_COPY], None),
        ([S.STOP_COPY, S.STOP_COPY], None),
        ([], S.PRE_COPY),
        ([], S.RUNNING_P2P),
        ([], S.ERROR),
        ([], 99),
        ([S.STOP_COPY], S.PRE_COPY),
    ],
)
def test_states_of_migration(client: Client, path: list[MigrationState], refused: int | None) -> None:
    for step in path:
        assert go(client, step) == step == state(client)
    if refused is not None:
        assert go(client, refused) == EINVAL
        assert state(client) == (path[-1] if path else S.RUNNING)


def test_a_function_is_moved(client: Client) -> None:
    client.write(CONFIG, 4, b"\x06\x00")
    assert client.call(Command.MIG_DATA_READ, MigrationData(1 << 20, 100).pack()).error == EINVAL
    assert go(client, S.STOP_COPY) == S.STOP_COPY
    pieces = []
    while True:
        reply = client.call(Command.MIG_DATA_READ, MigrationData(8 + 64, 64).pack())
        head, data = MigrationData.unpack(reply.payload), reply.payload[8:]
        assert (head.argsz, head.size) == (8 + len(data), len(data))
        pieces.append(data)
        if len(data) < 64:
            break
    assert go(client, S.RUNNING) == S.RUNNING
    other = Client()
    try:
        assert other.call(Command.MIG_DATA_WRITE, MigrationData(9, 1).pack() + b"a").error == EINVAL
        assert go(other, S.RESUMING) == S.RESUMING
        assert other.call(Command.MIG_DATA_WRITE, MigrationData(9, 2).pack() + b"a").error == EINVAL
        for data in pieces:
            reply = other.call(Command.MIG_DATA_WRITE, MigrationData(8 + len(data), len(data)).pack() + data)
            assert reply.error == 0
        assert go(other, S.RUNNING) == S.RUNNING
        assert other.read(CONFIG, 4, 2) == b"\x06\x00"
    finally:
        other.close()


def test_a_state_that_is_nonsense_is_an_error_until_a_reset(client: Client) -> None:
    assert go(client, S.RESUMING) == S.RESUMING
    data = b"nonsense"
    assert client.call(Command.MIG_DATA_WRITE, MigrationData(16, len(data)).pack() + data).error == 0
    assert go(client, S.STOP) == EINVAL
    assert state(client) == S.ERROR
    assert go(client, S.RUNNING) == EINVAL
    assert client.call(Command.DEVICE_RESET).error == 0
    assert state(client) == S.RUNNING


# --- dirty pages


def start_log(client: Client, *ranges: tuple[int, int], page: int = 4096) -> Any:
    data = LoggingStart(page, len(ranges)).pack() + b"".join(struct.pack("=QQ", *item) for item in ranges)
    return feature(client, FeatureFlag.SET, Feature.DMA_LOGGING_START, data)


def report(client: Client, address: int, length: int, page: int = 4096) -> Any:
    asked = LoggingReport(address, length, page).pack()
    found = feature(client, FeatureFlag.GET, Feature.DMA_LOGGING_REPORT, asked)
    if not isinstance(found, bytes):
        return found
    assert found[:24] == asked
    bits = int.from_bytes(found[24:], "little")
    return [address + page * bit for bit in range(bits.bit_length()) if bits >> bit & 1]


def test_written_pages_are_reported_once(client: Client, memory: int) -> None:
    assert client.map(0x100000, MEMORY, memory) == 0
    assert report(client, 0x100000, MEMORY) == EINVAL  # nothing is logged yet
    assert isinstance(start_log(client), bytes)
    assert start_log(client) == errno.EBUSY
    client.function.memory.write(0x103000 - 1, b"xy")
    client.function.memory.write(0x180000, b"x")
    assert report(client, 0x100000, 0x10000) == [0x102000, 0x103000]
    assert report(client, 0x100000, 0x10000) == []
    assert report(client, 0x100000, MEMORY, 0x10000) == [0x180000]
    client.function.memory.write(0x105000, b"x")
    assert report(client, 0x104000, 0x2000, 1024) == [0x105000 + 1024 * part for part in range(4)]
    assert feature(client, FeatureFlag.SET, Feature.DMA_LOGGING_STOP) == b""
    assert report(client, 0x100000, MEMORY) == EINVAL


def test_memory_that_comes_later_is_logged_too(client: Client, memory: int) -> None:
    assert isinstance(start_log(client), bytes)
    assert client.map(1 << 40, MEMORY, memory) == 0
    client.function.memory.write((1 << 40) + 0x2000, b"x")
    assert report(client, 1 << 40, MEMORY) == [(1 << 40) + 0x2000]


def test_only_what_is_monitored_is_reported(client: Client, memory: int) -> None:
    assert client.map(0, MEMORY, memory) == 0
    assert isinstance(start_log(client, (0x2000, 0x1000)), bytes)
    client.function.memory.write(0x1000, bytes(0x4000))
    assert report(client, 0, MEMORY) == [0x2000]


@pytest.mark.parametrize(
    "asked",
    [
        (0, 0, 4096),
        (0, 4096, 0),
        (0, 4096, 3),
        (0x800, 4096, 4096),
        ((1 << 64) - 4096, 8192, 4096),
        (0, 1 << 60, 1),
    ],
)
def test_reports_that_cannot_be_are_refused(client: Client, asked: tuple[int, int, int]) -> None:
    assert isinstance(start_log(client), bytes)
    assert report(client, *asked) == EINVAL


def test_logs_that_cannot_be_are_refused(client: Client) -> None:
    assert start_log(client, page=0) == EINVAL
    assert start_log(client, page=3000) == EINVAL
    assert start_log(client, (0, 0)) == EINVAL
    assert start_log(client, ((1 << 64) - 1, 2)) == EINVAL
    lies = LoggingStart(4096, 0xFFFF_FFFF).pack()
    assert feature(client, FeatureFlag.SET, Feature.DMA_LOGGING_START, lies) == EINVAL
