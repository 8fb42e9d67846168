"""``virtio net ADDRESS settings``: what is set comes to the device, and is printed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import virtio
from virtio._native import NetBackend
from virtio.cli import run

MAC = "02:00:00:00:00:07"


class Card(virtio.NetworkDevice):
    """Remembers what its driver had set when it left."""

    def driver_reset(self) -> None:
        if self._control.received:
            self.left = self._control.modes
        super().driver_reset()


@pytest.fixture
def card(tmp_path: Path) -> Iterator[tuple[Card, str]]:
    device = Card(
        NetBackend.sink(), mac=MAC, pairs=2, mtu=9000, speed=25000, duplex="half", features="RING_RESET"
    )
    address = f"vhost-user:{tmp_path}/net.sock"
    with virtio.start(device, address):
        yield device, address
    device.close()


def printed(capsys: pytest.CaptureFixture[str], address: str, *options: str) -> Any:
    assert run(["net", address, "settings", "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_a_card_has_is_printed(card: tuple[Card, str], capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, card[1])
    assert (found["mac"], found["mtu"], found["link"]) == (MAC, 9000, True)
    assert (found["speed"], found["duplex"]) == (25000, "half")
    assert found["pairs"] == {"in_use": 2, "set_up": 2, "max": 2}
    assert [queue["name"] for queue in found["queues"]] == [
        "receiveq1", "transmitq1", "receiveq2", "transmitq2", "controlq",
    ]  # fmt: skip
    assert found["queues"][0]["coalescing"] == {"max_packets": 0, "max_usecs": 0}
    assert "HOST_TSO4" in found["transmit_offloads"]
    assert all(found["receive_offloads"].values())
    assert found["rss"]["max_table_size"] == 128
    assert found["rss"]["set"] is None
    assert run(["net", card[1], "settings"]) == 0
    out = capsys.readouterr().out
    for line in (f"address            {MAC}", "speed              25000 Mbit/s, half duplex"):
        assert line in out.splitlines()


def test_what_is_set_comes_to_the_card(card: tuple[Card, str], capsys: pytest.CaptureFixture[str]) -> None:
    device, address = card
    found = printed(
        capsys, address, "--mac", "02:00:00:00:00:09", "--no-promisc", "--allmulti", "--nobcast",
        "--filter", "02:00:00:00:00:aa", "--filter", "01:00:5e:00:00:01", "--vlan", "5", "--vlan", "7",
        "--pairs", "1", "--rx-ring", "64", "--tx-ring", "128", "--offloads", "guest_csum,guest_tso4",
        "--coalesce-rx", "20,100", "--coalesce-queue", "tx0=3,7",
    )  # fmt: skip
    assert found["mac"] == "02:00:00:00:00:09"
    assert found["pairs"] == {"in_use": 1, "set_up": 2, "max": 2}
    assert [queue["size"] for queue in found["queues"]] == [64, 128, 64, 128, 256]
    on = [name for name, switched in found["receive_offloads"].items() if switched]
    assert on == ["GUEST_CSUM", "GUEST_TSO4"]
    coalescing = [queue.get("coalescing") for queue in found["queues"]]
    assert coalescing == [
        {"max_packets": 20, "max_usecs": 100},
        {"max_packets": 3, "max_usecs": 7},
        {"max_packets": 20, "max_usecs": 100},
        None,
        None,
    ]
    left = device.left
    assert left.mac == bytes.fromhex("020000000009")
    assert (left.promiscuous, left.all_multicast, left.no_broadcast) == (False, True, True)
    assert left.macs == [bytes.fromhex("0200000000aa"), bytes.fromhex("01005e000001")]
    assert left.vlans == {5, 7}
    # And with the driver all of it went.
    assert printed(capsys, address)["mac"] == MAC


def test_hashes_spread_frames(card: tuple[Card, str], capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--rss-table", "1,0,1,1", "--rss-key", "01:02:03", "--rss-types", "ipv4,udpv6")
    more = ("--rss-unclassified", "1", "--rss-transmit", "1", "--remove-vlan", "9")
    found = printed(capsys, card[1], *options, *more)
    assert found["pairs"]["in_use"] == 1
    found = found["rss"]["set"]
    assert found == {
        "table": [1, 0, 1, 1],
        "key": "010203",
        "types": ["IPv4", "UDPv6"],
        "unclassified": 1,
        "transmit": 1,
    }
    assert run(["net", card[1], "settings", "--rss-table", "0,1"]) == 0
    out = capsys.readouterr().out
    assert "RSS table          0,1" in out
    assert "RSS                on, tables to 128 entries" in out


@pytest.mark.parametrize(
    "options",
    [
        ("--mac", "02:00"),
        ("--mac", "01:00:00:00:00:01"),
        ("--filter", "nonsense"),
        ("--pairs", "3"),
        ("--offloads", "HOST_TSO4"),
        ("--offloads", ""),
        ("--coalesce-rx", "20"),
        ("--coalesce-tx", "1,4294967296"),
        ("--coalesce-queue", "rx2=1,1"),
        ("--coalesce-queue", "control=1,1"),
        ("--rss-key", "00"),
        ("--rss-transmit", "1"),
        ("--hash-key", "00"),
        ("--hash-types", "ipv4", "--hash-key", "xy"),
        ("--rss-table", "0,1,0"),
        ("--rss-table", "0,x"),
        ("--rss-table", "0,1", "--rss-key", "00" * 41),
        ("--rss-table", "0,1", "--rss-unclassified", "2"),
        ("--rss-table", "0,1", "--rss-types", "SCTPv4"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_is_one_line(
    card: tuple[Card, str], options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["net", card[1], "settings", *options]) in (1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_hashes_are_reported(card: tuple[Card, str], capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, card[1], "--hash-types", "tcpv4", "--hash-key", "0a0b")
    assert found["hash_report"] == {"possible": True, "set": {"types": ["TCPv4"], "key": "0a0b"}}
    assert run(["net", card[1], "settings", "--hash-types", "none", "--vlan", "3", "--remove-vlan", "3"]) == 0
    out = capsys.readouterr().out
    assert "hash report        none, key " in out
    assert "VLANs              none let in by us" in out


def test_a_card_that_has_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = virtio.NetworkDevice(NetBackend.sink(), mask="CTRL_VQ,CSUM,GUEST_CSUM,MAC,STATUS,HASH_REPORT")
    address = f"vhost-user:{tmp_path}/net.sock"
    with virtio.start(device, address):
        found = printed(capsys, address)
        assert found["mac"] is found["mtu"] is found["speed"] is None
        assert found["link"] is True
        assert found["pairs"] == {"in_use": 1, "set_up": 1, "max": 1}
        assert found["transmit_offloads"] == []
        assert run(["net", address, "settings"]) == 0
        assert "receive modes      cannot be set" in capsys.readouterr().out
        assert run(["net", address, "settings", "--promisc"]) == 2
    device.close()


def test_a_card_with_flow_filters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = virtio.NetworkDevice(NetBackend.sink(), flow_filters=True)
    for address, there in (
        (f"vfio-user:{tmp_path}/net.sock", True),
        (f"vhost-user:{tmp_path}/v.sock", False),
    ):
        with virtio.start(device, address):
            found = printed(capsys, address)["flow_filters"]
            assert run(["net", address, "settings"]) == 0
            assert ("1024 rules in 64 groups" in capsys.readouterr().out) == there
        assert (found is not None) == there
        if found:
            assert found["rules"] == found["rules_per_group"] == 1024
            assert found["headers"] == ["eth", "ipv4", "ipv6", "tcp", "udp"]
            assert found["actions"] == ["DROP", "DIRECT_RX_VQ"]
    device.close()
