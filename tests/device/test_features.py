"""Feature negotiation, 2.2 and 6: dependencies hold for whatever is offered, masked or accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtio import (
    BlockDevice,
    ConfigurationError,
    ConsoleDevice,
    EntropyDevice,
    FeatureNegotiationError,
)
from virtio.device import features as sets
from virtio.spec import core, net

VERSION_1 = core.F.VERSION_1
KIND = net.DEVICE
CURRENT = sum(feature.mask for feature in net.F if not feature.legacy)
words = st.lists(st.sampled_from([f.mask for f in net.F if not f.legacy]), max_size=12).map(
    lambda bits: sum(set(bits)) | VERSION_1
)


def satisfied(features: int) -> bool:
    """Whether the set needs nothing more; written apart from the code under test."""
    for feature in net.F:
        if not features & feature.mask:
            continue
        for needs in feature.needs:
            if not any((net.F.get(name) or core.F[name]).mask & features for name in needs):
                return False
    return True


@given(words)
def test_only_sets_that_are_complete_may_be_offered(features: int) -> None:
    if satisfied(features):
        sets.check_offer(KIND, features)
    else:
        with pytest.raises(ConfigurationError, match="must not be offered without"):
            sets.check_offer(KIND, features)


@given(words)
def test_only_sets_that_are_complete_may_be_accepted(features: int) -> None:
    if satisfied(features):
        sets.check_accepted(KIND, CURRENT | VERSION_1, features)
    else:
        with pytest.raises(FeatureNegotiationError) as caught:
            sets.check_accepted(KIND, CURRENT | VERSION_1, features)
        assert caught.value.clause == "2.2.1"
        assert caught.value.missing & ~features


@given(words, words)
def test_masking_leaves_a_complete_set(features: int, mask: int) -> None:
    left = sets.without(KIND, features, mask & ~VERSION_1)
    assert satisfied(left)
    assert left & ~features == 0
    assert not left & mask & ~VERSION_1
    if satisfied(features & ~(mask & ~VERSION_1)):
        assert left == features & ~(mask & ~VERSION_1)


@given(st.integers(0, (1 << 128) - 1))
def test_what_was_not_offered_is_refused(accepted: int) -> None:
    offered = VERSION_1 | net.F.MAC
    if accepted & ~offered:
        with pytest.raises(FeatureNegotiationError) as caught:
            sets.check_accepted(KIND, offered, accepted)
        assert caught.value.unexpected == accepted & ~offered


def test_the_legacy_interface_is_not_served() -> None:
    with pytest.raises(FeatureNegotiationError, match="legacy interface") as caught:
        sets.check_accepted(KIND, VERSION_1 | net.F.MAC, net.F.MAC)
    assert (caught.value.clause, caught.value.missing) == ("6.1", VERSION_1)
    legacy = next(feature for feature in net.F if feature.legacy)
    with pytest.raises(ConfigurationError, match=f"{legacy.name} belongs to the legacy interface"):
        sets.check_offer(KIND, VERSION_1 | legacy.mask)


def test_features_are_read_in_any_form() -> None:
    assert sets.parse(KIND, "MAC, virtio_net_f_status,5, event_idx,0x2") == (
        net.F.MAC | net.F.STATUS | 1 << 5 | core.F.EVENT_IDX | 2
    )
    assert sets.parse(KIND, "") == 0
    for wrong in ("MACK", "127", "0xg"):
        with pytest.raises(ConfigurationError):
            sets.parse(KIND, wrong)
    assert sets.names(KIND, net.F.MAC | 1 << 127) == f"VIRTIO_NET_F_MAC, {1 << 127:#x}"


def test_a_user_adds_what_belongs_to_no_device_type() -> None:
    for features in ("IN_ORDER,RING_RESET", core.F.IN_ORDER | core.F.RING_RESET):
        for device in (
            BlockDevice(size=512, features=features),
            EntropyDevice(features=features),
            ConsoleDevice(print, features=features),
        ):
            assert (
                device.offered_features & (core.F.IN_ORDER | core.F.RING_RESET)
                == core.F.IN_ORDER | core.F.RING_RESET
            )
    with pytest.raises(ConfigurationError, match="VIRTIO_BLK_F_ZONED"):
        BlockDevice(size=512, features="ZONED")
    with pytest.raises(ConfigurationError, match="does not have VIRTIO_F_SR_IOV"):
        BlockDevice(size=512, features="SR_IOV")
