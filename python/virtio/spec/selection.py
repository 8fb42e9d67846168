"""Sets of features of a device type: by name, with what they need (VIRTIO 1.4, 2.2 and 6).

Feature sets are integers of 128 bits. Which features need which others is data of the standard
(``requires`` in :mod:`virtio.spec.model`).
"""

from collections.abc import Iterator

from virtio.errors import ConfigurationError
from virtio.spec import core
from virtio.spec.model import DeviceType, Feature


def lookup(kind: DeviceType, key: int | str) -> Feature | None:
    """Find a feature of a device type, or a reserved one, by bit number or by full or short name.

    Bits that only the legacy interface of a type knows mean now what they mean for all types.
    """
    own, shared = kind.features.get(key), core.F.get(key)
    return shared if own is None or (own.legacy and shared is not None) else own


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
