"""virtio over MMIO: a block of registers and one interrupt line (VIRTIO 1.4, 4.2).

:mod:`.device_end` is the register block as a state machine on loads and stores, for whoever has a bus (a
simulator, a VMM, a test bench). :mod:`.driver_end` drives one over any bus, :mod:`.local` joins the two in
one process under an address, ``mmio:NAME``. :mod:`.legacy` is the register block of version 1, on request.
"""

from virtio.memory.shared import DEFAULT_SIZE, SharedMemory
from virtio.transport.in_process import InProcessServer, find
from virtio.transport.interface import DeviceEnd
from virtio.transport.mmio.device_end import MmioRegisters, SharedMemoryRegion
from virtio.transport.mmio.driver_end import MmioBus, MmioDriverEnd
from virtio.transport.mmio.legacy import MmioLegacyRegisters
from virtio.transport.mmio.local import LocalBus

__all__ = [
    "MmioBus",
    "MmioDriverEnd",
    "MmioLegacyRegisters",
    "MmioRegisters",
    "SharedMemoryRegion",
    "open_driver_end",
    "start",
]


def start(device: DeviceEnd, name: str) -> InProcessServer:
    """Put ``device`` behind registers that are known as ``mmio:NAME`` in this process."""
    return InProcessServer(device, "mmio", name)


def open_driver_end(
    name: str,
    *,
    timeout: float = 5.0,
    memory_size: int = DEFAULT_SIZE,
    huge_pages: bool = False,
) -> MmioDriverEnd:
    """Drive the device that is known as ``mmio:NAME`` in this process."""
    server = find("mmio", name)
    memory = SharedMemory(memory_size, huge_pages=huge_pages)
    try:
        bus = LocalBus(server, memory)
    except BaseException:
        memory.close()
        raise
    try:
        return MmioDriverEnd(bus, timeout)
    except BaseException:
        bus.close()
        raise
