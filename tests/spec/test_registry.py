"""Finding device types, and adding some."""

from __future__ import annotations

import subprocess
import sys

import pytest

import virtio.spec
from virtio.errors import ConfigurationError
from virtio.spec import device_type, device_types, register
from virtio.spec.model import V1_4, DeviceType, Features


@pytest.mark.parametrize("key", [1, "1", "net"])
def test_by_name_and_by_id(key: int | str) -> None:
    assert device_type(key).title == "Network Device"


@pytest.mark.parametrize("key", ["network", "", 0, 50, "9p", 14, 6, "core"])
def test_what_does_not_exist(key: int | str) -> None:
    with pytest.raises(ConfigurationError):
        device_type(key)


def test_modules_come_by_name() -> None:
    assert virtio.spec.net.DEVICE is device_type("net")
    with pytest.raises(AttributeError):
        _ = virtio.spec.nothing


def test_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtio.spec, "_registered", {})
    mine = DeviceType(1000, "mine", "My Device", "", V1_4, Features("VIRTIO_MINE_F_"), ())
    register(mine)
    register(mine)
    assert device_type("mine") is device_type(1000) is mine
    assert mine in device_types()
    for number, name in ((1000, "yours"), (1001, "mine"), (1, "mine"), (1002, "net")):
        other = DeviceType(number, name, "Other", "", V1_4, Features("VIRTIO_OTHER_F_"), ())
        with pytest.raises(ConfigurationError):
            register(other)


def test_all_types() -> None:
    assert [device.id for device in device_types()] == sorted(device.id for device in device_types())
    assert len(device_types()) == 23


def test_nothing_is_loaded_before_it_is_needed() -> None:
    code = "import sys, virtio.spec; print([m for m in sys.modules if m.startswith('virtio.spec.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
