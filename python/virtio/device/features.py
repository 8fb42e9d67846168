"""What may be offered and what may be accepted (VIRTIO 1.4, 2.2 and 6).

Feature sets are integers of 128 bits. Which features need which others is data of the standard
(``requires`` in :mod:`virtio.spec`).
"""

from collections.abc import Iterator

from virtio.errors import ConfigurationError, FeatureNegotiationError
from virtio.spec import core
from virtio.spec.model import DeviceType, Feature

IMPLEMENTED = (
    core.F.VERSION_1
    | core.F.INDIRECT_DESC
    | core.F.EVENT_IDX
    | core.F.RING_PACKED
    | core.F.IN_ORDER
    | core.F.SUSPEND
)
"""The device-independent features that our device end has."""

DEFAULT = core.F.VERSION_1 | core.F.INDIRECT_DESC | core.F.EVENT_IDX | core.F.RING_PACKED
"""Those that a device offers unless told otherwise. SUSPEND costs nothing, but few drivers ever saw it."""


def lookup(kind: DeviceType, key: int | str) -> Feature | None:
    """Find a feature of a device type, or a reserved one, by bit number or by full or short name."""
    return kind.features.get(key) or core.F.get(key)


def known(kind: DeviceType, features: int) -> Iterator[Feature]:
    """Yield those of the bits in ``features`` that the standard defines for this device type."""
    bit = 0
    while features >> bit:
        if features >> bit & 1 and (feature := lookup(kind, bit)) is not None:
            yield feature
        bit += 1


def names(kind: DeviceType, features: int) -> str:
    """List features for a message: by name where there is one, as a number where not."""
    found = list(known(kind, features))
    rest = features & ~sum(feature.mask for feature in found)
    return ", ".join([feature.name for feature in found] + ([f"{rest:#x}"] if rest else []))


def parse(kind: DeviceType, text: str) -> int:
    """Read features given by name, bit number or mask, with commas between (``MRG_RXBUF,5,0x100``)."""
    mask = 0
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word.lower().startswith("0x"):
            try:
                mask |= int(word, 16)
            except ValueError:
                raise ConfigurationError(f"{word!r} is not a feature mask") from None
            continue
        feature = lookup(kind, int(word) if word.isdecimal() else word.upper())
        if feature is None:
            raise ConfigurationError(f"a {kind.name} device has no feature {word!r}")
        mask |= feature.mask
    return mask


def unmet(kind: DeviceType, features: int) -> Iterator[tuple[Feature, tuple[str, ...], int]]:
    """Yield each feature that lacks what it requires, the names of which one is needed, and their bits."""
    for feature in known(kind, features):
        for needs in feature.needs:
            mask = sum(found.mask for name in needs if (found := lookup(kind, name)) is not None)
            if not features & mask:
                yield feature, needs, mask


def without(kind: DeviceType, features: int, mask: int) -> int:
    """Take ``mask`` out of ``features``, and with it whatever cannot be without it."""
    features &= ~mask
    while orphans := sum({feature.mask for feature, _, _ in unmet(kind, features)}):
        features &= ~orphans
    return features


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
