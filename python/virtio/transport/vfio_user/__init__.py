"""vfio-user: a PCI function in this process for a virtual machine, or a driver here for one elsewhere.

From the inside out: :mod:`.messages`, :mod:`.payloads` and :mod:`.version` are the protocol as tables,
:mod:`.codec` makes messages of bytes.

The server's side: :mod:`.session` drives a :class:`~virtio.transport.pci.function.PciFunction` by them, with
:mod:`.regions`, :mod:`.irqs`, :mod:`.dma`, :mod:`.transfers`, :mod:`.migration` and :mod:`.dirty` for what
its messages are about; :mod:`.connection` and :mod:`.server` do the input and output. The client's side:
:mod:`.exchange`, :mod:`.client` and :mod:`.twin`, behind the :class:`VfioUserBus`.
"""

from typing import Any

from virtio.errors import ConfigurationError
from virtio.memory.shared import DEFAULT_SIZE, SharedMemory
from virtio.transport.interface import DeviceEnd
from virtio.transport.pci import PciDriverEnd, PciFunction
from virtio.transport.unix.connector import open_connection
from virtio.transport.unix.listener import open_listener
from virtio.transport.vfio_user.bus import VfioUserBus
from virtio.transport.vfio_user.server import VfioUserServer

__all__ = ["VfioUserBus", "VfioUserServer", "open_bus", "open_driver_end", "start"]


def start(device: DeviceEnd | PciFunction, spec: str, **options: Any) -> VfioUserServer:
    """Serve ``device`` as a PCI function at the socket that ``spec`` names, in the background.

    ``options`` are those of :class:`~virtio.transport.pci.PciFunction`, which ``device`` may be already.
    """
    return VfioUserServer(device, open_listener(spec, "vfio-user"), **options)


def open_bus(
    spec: str,
    *,
    timeout: float = 5.0,
    memory_size: int = DEFAULT_SIZE,
    huge_pages: bool = False,
    share: bool = True,
) -> VfioUserBus:
    """Connect to the function at the socket that ``spec`` names, without a driver for it."""
    if not timeout > 0:
        raise ConfigurationError(f"a timeout of {timeout:g} seconds")
    memory = SharedMemory(memory_size, huge_pages=huge_pages)
    try:
        connection = open_connection(spec, "vfio-user", timeout)
    except BaseException:
        memory.close()
        raise
    return VfioUserBus(connection, memory, address=f"vfio-user:{spec}", timeout=timeout, share=share)


def open_driver_end(
    spec: str,
    *,
    timeout: float = 5.0,
    memory_size: int = DEFAULT_SIZE,
    huge_pages: bool = False,
    msix: bool = True,
    share: bool = True,
) -> PciDriverEnd:
    """Drive the function at the socket that ``spec`` names.

    ``timeout``: seconds that an access may take. ``memory_size``: bytes of the first region of memory, and by
    how much it grows at least. ``huge_pages``: make it of 2 MiB pages. Without ``msix``, interrupts come by
    INTx. Without ``share`` the server gets no descriptors, and reaches memory by messages.
    """
    bus = open_bus(spec, timeout=timeout, memory_size=memory_size, huge_pages=huge_pages, share=share)
    try:
        return PciDriverEnd(bus, msix=msix)
    except BaseException:
        bus.close()
        raise
