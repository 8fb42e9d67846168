"""vfio-user: a PCI function in this process for a virtual machine, or a driver here for one elsewhere.

From the inside out: :mod:`.messages`, :mod:`.payloads` and :mod:`.version` are the protocol as tables,
:mod:`.codec` makes messages of bytes.

The server's side: :mod:`.session` drives a :class:`~virtio.transport.pci.function.PciFunction` by them, with
:mod:`.regions`, :mod:`.irqs`, :mod:`.dma`, :mod:`.transfers`, :mod:`.migration` and :mod:`.dirty` for what
its messages are about; :mod:`.connection` and :mod:`.server` do the input and output.
"""

from virtio.transport.interface import DeviceEnd
from virtio.transport.unix.listener import open_listener
from virtio.transport.vfio_user.server import VfioUserServer

__all__ = ["VfioUserServer", "start"]


def start(device: DeviceEnd, spec: str) -> VfioUserServer:
    """Serve ``device`` as a PCI function at the socket that ``spec`` names, in the background."""
    return VfioUserServer(device, open_listener(spec, "vfio-user"))
