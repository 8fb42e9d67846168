"""A device of this process that a test serves."""

from pathlib import Path

from virtio.device.base import Device
from virtio.transport.interface import Server
from virtio.vm.attachment import Attachment
from virtio.vm.boot import attachment


class Served:
    """A device and the server that it is reached through."""

    def __init__(self, device: Device, server: Server, address: str, socket: Path | None) -> None:
        """Take note of both; ``socket`` is None where there is none."""
        self.device = device
        self.server = server
        self.address = address
        self.socket = socket

    @property
    def type(self) -> str:
        """The device type's name, as :func:`virtio.connect` takes it."""
        return self.device.type.name

    @property
    def attachment(self) -> Attachment:
        """What a guest needs to know."""
        if self.socket is None:
            raise ValueError(f"{self.address} is no socket that a guest could be attached to")
        return attachment(self.device, self.socket)

    def stop(self) -> None:
        """Serve it no more; the device stays open, to be looked at or served again."""
        self.server.stop()

    def report(self) -> str:
        """What a failed test shows of it: what was agreed, and what went through each queue."""
        device = self.device
        lines = [
            f"status {device.status:#x}, features {device.negotiated_features:#x}"
            + (", needs a reset" if device.needs_reset else "")
        ]
        for queue in device.queues:
            counters = queue.counters
            if counters is None:
                continue
            state = "broken" if queue.broken else "running" if queue.running else "stopped"
            lines.append(
                f"{queue.name}: {state}, {counters.chains} chains, {counters.kicks} kicks, "
                f"{counters.interrupts} interrupts, {counters.bytes_read} bytes read, "
                f"{counters.bytes_written} written"
            )
            lines += [f"    against {clause}: {count} times" for clause, count in counters.errors.items()]
        return "\n".join(lines)
