"""vhost-user: a device in this process for a virtual machine, or a driver here for a device elsewhere.

From the inside out: :mod:`.payloads` and :mod:`.messages` are the protocol as tables, :mod:`.codec` makes
messages of bytes.

The back end's side: :mod:`.session` (with :mod:`.backend`, :mod:`.vring` and :mod:`.channel`) drives a device
by them, and :mod:`.connection` and :mod:`.server` do the input and output.
:mod:`.quirks` lists what known front ends do differently.

The front end's side: :mod:`.exchange` pairs requests and answers, :mod:`.frontend` is the procedures made of
them, :mod:`.client` does the input and output, and :mod:`.driver_end` is what a driver calls.

A device's state goes through :mod:`.device_state` there and :mod:`.relocation` here.
"""

from virtio.errors import ConfigurationError
from virtio.memory.iommu import IommuDomain, domain_of
from virtio.memory.shared import DEFAULT_SIZE, SharedMemory
from virtio.transport.interface import DeviceEnd
from virtio.transport.unix.listener import open_listener
from virtio.transport.vhost_user.backend import IN_BAND, PROTOCOL_FEATURES
from virtio.transport.vhost_user.driver_end import VhostUserDriverEnd
from virtio.transport.vhost_user.place import parse_place
from virtio.transport.vhost_user.server import VhostUserServer

__all__ = ["VhostUserDriverEnd", "VhostUserServer", "open_driver_end", "start"]


def start(device: DeviceEnd, spec: str) -> VhostUserServer:
    """Serve ``device`` at the socket that ``spec`` names, in the background.

    ``spec`` may end in ``?notifications=in-band``: front ends may then kick, and be called, by messages.
    """
    place, in_band = parse_place(spec)
    features = PROTOCOL_FEATURES | (IN_BAND if in_band else 0)
    return VhostUserServer(device, open_listener(place, "vhost-user"), protocol_features=features)


def open_driver_end(
    spec: str,
    *,
    timeout: float = 5.0,
    memory_size: int = DEFAULT_SIZE,
    huge_pages: bool = False,
    reconnect: float = 0.0,
    iommu: bool | IommuDomain = False,
) -> VhostUserDriverEnd:
    """Connect to the back end at the socket that ``spec`` names.

    ``timeout``: seconds that a request may take. ``memory_size``: bytes of the first region of shared memory,
    and by how much it grows at least. ``huge_pages``: make it of 2 MiB pages. ``reconnect``:
    seconds for which to try, with growing pauses, to come back to a back end that went away; calls wait
    meanwhile, within their timeout. The device is lost all the same if requests were under way and it is not
    known which (see :mod:`.recovery`). With ``?notifications=in-band``
    behind ``spec`` the back end is kicked, and calls, by messages. ``iommu``: a domain through which the
    device sees the memory; True: one that maps all of it.
    """
    place, in_band = parse_place(spec)
    if not timeout > 0:
        raise ConfigurationError(f"a timeout of {timeout:g} seconds")
    if not reconnect >= 0:
        raise ConfigurationError(f"{reconnect:g} seconds to reconnect")
    memory = SharedMemory(memory_size, huge_pages=huge_pages, domain=domain_of(iommu))
    return VhostUserDriverEnd(place, timeout=timeout, memory=memory, in_band=in_band, reconnect=reconnect)
