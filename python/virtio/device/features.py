"""What may be offered and what may be accepted (VIRTIO 1.4, 2.2 and 6)."""

from virtio.errors import ConfigurationError, FeatureNegotiationError
from virtio.spec import core
from virtio.spec.model import DeviceType
from virtio.spec.selection import known, lookup, names, parse, unmet, without

__all__ = [
    "DEFAULT",
    "IMPLEMENTED",
    "check_accepted",
    "check_offer",
    "extra",
    "known",
    "lookup",
    "names",
    "parse",
    "unmet",
    "without",
]

IMPLEMENTED = (
    core.F.VERSION_1
    | core.F.INDIRECT_DESC
    | core.F.EVENT_IDX
    | core.F.RING_PACKED
    | core.F.IN_ORDER
    | core.F.ORDER_PLATFORM
    | core.F.RING_RESET
    | core.F.SUSPEND
    | core.F.NOTIFICATION_DATA
    | core.F.NOTIF_CONFIG_DATA
    | core.F.ADMIN_VQ
    | core.F.ACCESS_PLATFORM
)
"""The device-independent features that our device end has. NOTIF_CONFIG_DATA is the transport's alone."""

DEFAULT = core.F.VERSION_1 | core.F.INDIRECT_DESC | core.F.EVENT_IDX | core.F.RING_PACKED
"""Those that a device offers unless told otherwise. SUSPEND costs nothing, but few drivers ever saw it."""


def extra(kind: DeviceType, features: int | str) -> int:
    """Return device-independent features that a user wants offered too, by bits or by names."""
    found = parse(kind, features) if isinstance(features, str) else features
    if own := found & ~core.F.mask:
        raise ConfigurationError(
            f"{names(kind, own)}: what a device of its type can is said by its other options"
        )
    return found


def check_offer(kind: DeviceType, features: int) -> None:
    """Raise if a device must not offer this set (2.2.2)."""
    if nameless := features & ~sum(feature.mask for feature in known(kind, features)):
        raise ConfigurationError(
            f"a {kind.name} device cannot offer {nameless:#x}: VIRTIO 1.4 has no such feature"
        )
    if legacy := sum(feature.mask for feature in known(kind, features) if feature.legacy):
        raise ConfigurationError(
            f"{names(kind, legacy)} belongs to the legacy interface, which is not served"
        )
    if missing := features & core.F.mask & ~IMPLEMENTED & ~kind.features.mask:
        raise ConfigurationError(f"the device end does not have {names(kind, missing)} yet")
    for feature, needs, _ in unmet(kind, features):
        raise ConfigurationError(
            f"{feature.name} must not be offered without {' or '.join(needs)} ({feature.section})"
        )
    for wanted in kind.lacking(features):
        raise ConfigurationError(f"a {kind.name} device must offer {' or '.join(wanted)} ({kind.section})")


def check_accepted(kind: DeviceType, offered: int, accepted: int) -> None:
    """Raise if a driver must not accept this set of what was offered (2.2.1, 6.1)."""
    if unexpected := accepted & ~offered:
        raise FeatureNegotiationError(
            f"the driver accepted {names(kind, unexpected)}, never offered", "2.2.1", unexpected=unexpected
        )
    if missing := offered & core.F.VERSION_1 & ~accepted:
        raise FeatureNegotiationError(
            "the driver did not accept VIRTIO_F_VERSION_1; the legacy interface is not served",
            "6.1",
            missing=missing,
        )
    for feature, needs, mask in unmet(kind, accepted):
        raise FeatureNegotiationError(
            f"the driver accepted {feature.name} without {' or '.join(needs)}", "2.2.1", missing=mask
        )
    for wanted in kind.lacking(accepted):
        raise FeatureNegotiationError(
            f"the driver did not accept {' or '.join(wanted)}, which a {kind.name} device is useless without",
            kind.section,
            missing=sum(kind.features[name].mask for name in wanted),
        )
