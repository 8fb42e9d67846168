"""Statistics of the network device for its driver (VIRTIO 1.4, 5.1.9.5.11)."""

from typing import Protocol

from virtio._native import Counters, NetPort
from virtio.spec import net_control
from virtio.spec.model import Struct
from virtio.spec.net import F

_LAYOUTS: dict[str, Struct] = {struct.name: struct for struct in net_control.STATS}
_CVQ, _RX, _TX = "cvq", "rx", "tx"

_KINDS: dict[str, tuple[str, int]] = {
    kind: (
        kind[:3].lower().rstrip("_"),
        sum(feature.mask for name in net_control.STATS_NEEDS.get(kind, ()) if (feature := F.get(name))),
    )
    for _, kind in net_control.STATS_KINDS
}
"""Which queues each kind is for, and one of which features it needs.

The speed is no limit here: what was dropped because of it is counted, and there is none.
"""


class Source(Protocol):
    """Where the numbers come from."""

    port: NetPort
    pairs: int
    negotiated_features: int

    def counters(self, queue_index: int) -> Counters | None:
        """What a queue has done."""


class Statistics:
    """The numbers at this moment."""

    def __init__(self, source: Source, commands: int, succeeded: int) -> None:
        """``commands`` were received and ``succeeded`` of them carried out, with the present one."""
        self._source = source
        self._commands = {"command_num": commands, "ok_num": succeeded}
        both = source.negotiated_features & (F.MQ | F.RSS)
        self._control = 2 * source.pairs if both else 2

    def capabilities(self) -> bytes:
        """``struct virtio_net_stats_capabilities``."""
        types = sum(net_control.STATS_TYPE[f"VIRTIO_NET_STATS_TYPE_{kind}"].value for kind in _KINDS)
        return types.to_bytes(8, "little")

    def get(self, request: bytes) -> bytes | None:
        """Answer ``struct virtio_net_ctrl_queue_stats``; None if any of it is wrong: then all of it fails."""
        if not request or len(request) % 16:
            return None
        answer = b""
        for at in range(0, len(request), 16):
            queue = int.from_bytes(request[at : at + 2], "little")
            types = int.from_bytes(request[at + 8 : at + 16], "little")
            part = self._queue(queue, types)
            if part is None:
                return None
            answer += part
        return answer

    def _queue(self, queue: int, types: int) -> bytes | None:
        if queue > self._control:
            return None
        role = _CVQ if queue == self._control else _TX if queue % 2 else _RX
        answer = b""
        for kind, (of, needs) in _KINDS.items():
            bit = net_control.STATS_TYPE[f"VIRTIO_NET_STATS_TYPE_{kind}"].value
            if not types & bit:
                continue
            types &= ~bit
            if of != role or (needs and not self._source.negotiated_features & needs):
                return None
            answer += self._reply(kind, queue)
        return None if types else answer

    def _reply(self, kind: str, queue: int) -> bytes:
        layout = _LAYOUTS[f"virtio_net_stats_{kind.lower()}"]
        numbers = self._commands if kind == "CVQ" else self._numbers(queue)
        values = {field.name: numbers.get(field.name, 0) for field in layout.fields if field.name != "hdr"}
        header = {
            "type": net_control.STATS_REPLY[f"VIRTIO_NET_STATS_TYPE_REPLY_{kind}"].value,
            "vq_index": queue,
            "size": layout.size,
        }
        return layout.pack(hdr=header, **values)

    def _numbers(self, queue: int) -> dict[str, int]:
        numbers = dict(self._source.port.statistics(queue // 2))
        counters = self._source.counters(queue)
        side = "tx" if queue % 2 else "rx"
        numbers[f"{side}_notifications"] = counters.kicks if counters else 0
        numbers[f"{side}_interrupts"] = counters.interrupts if counters else 0
        return numbers
