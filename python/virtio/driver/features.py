"""Which of the features that a device offers a driver accepts (VIRTIO 1.4, 2.2.1 and 6.1)."""

from virtio.errors import FeatureNegotiationError
from virtio.spec import core, selection
from virtio.spec.model import DeviceType

UNDERSTOOD = (
    core.F.VERSION_1
    | core.F.INDIRECT_DESC
    | core.F.EVENT_IDX
    | core.F.ACCESS_PLATFORM
    | core.F.RING_PACKED
    | core.F.IN_ORDER
    | core.F.ORDER_PLATFORM
    | core.F.NOTIFICATION_DATA
    | core.F.NOTIF_CONFIG_DATA
    | core.F.RING_RESET
    | core.F.SUSPEND
)
"""The device-independent features that our driver end has.

ACCESS_PLATFORM: every address that a driver uses is one that its transport gave it. NOTIFICATION_DATA: the
ring says what there is to tell, and the transport how; NOTIF_CONFIG_DATA is the transport's alone.
"""


def choose(kind: DeviceType, offered: int, understood: int, mask: int = 0) -> int:
    """Return what to accept of ``offered``: what is understood, not masked, and has all that it requires.

    Raises :exc:`~virtio.errors.FeatureNegotiationError` if the device cannot be driven without what is then
    missing.
    """
    if not offered & core.F.VERSION_1:
        raise FeatureNegotiationError(
            "the device does not offer VIRTIO_F_VERSION_1; the legacy interface is not driven",
            "6.1",
            missing=core.F.VERSION_1,
        )
    features = selection.without(kind, offered & understood, mask & ~core.F.VERSION_1)
    for wanted in kind.lacking(features):
        raise FeatureNegotiationError(
            f"without {' or '.join(wanted)} a {kind.name} device is of no use",
            kind.section,
            missing=sum(kind.features[name].mask for name in wanted),
        )
    return features
