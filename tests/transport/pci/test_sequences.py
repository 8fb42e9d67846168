"""The common configuration against a model, over random sequences of writes."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.transport.contract import Mirror
from tests.transport.pci.rig import Card, S

from virtio.spec import core

QUEUES, LARGEST, VECTORS = 2, 1024, 3
NO_VECTOR = 0xFFFF
OFFERED = core.F.VERSION_1 | core.F.INDIRECT_DESC | core.F.EVENT_IDX | core.F.RING_PACKED | core.F.RING_RESET
STEPS = (S.ACKNOWLEDGE, S.DRIVER, S.FEATURES_OK, S.DRIVER_OK)
words = st.one_of(st.integers(0, 5), st.sampled_from([0xFFFF_FFFF, 1 << 31]))
indexes = st.one_of(st.integers(0, 3), st.just(0xFFFF))


class Ring:
    """What a queue's registers should show."""

    def __init__(self) -> None:
        self.size = LARGEST
        self.areas = {"queue_desc": 0, "queue_driver": 0, "queue_device": 0}
        self.vector = NO_VECTOR
        self.enabled = False


class Registers(RuleBasedStateMachine):
    """A driver that writes what comes to its mind."""

    @initialize()
    def begin(self) -> None:
        self.card = Card(Mirror())
        self.forget()

    def forget(self) -> None:
        self.selects = {"device_feature_select": 0, "driver_feature_select": 0, "queue_select": 0}
        self.accepted = [0, 0, 0, 0]
        self.beyond = False
        self.status = 0
        self.config_vector = NO_VECTOR
        self.rings = [Ring() for _ in range(QUEUES)]

    @property
    def ring(self) -> Ring | None:
        index = self.selects["queue_select"]
        return self.rings[index] if index < QUEUES else None

    @property
    def features(self) -> int:
        return sum(word << 32 * index for index, word in enumerate(self.accepted))

    @property
    def packed(self) -> int:
        return self.features & core.F.RING_PACKED if self.status & S.FEATURES_OK else 0

    # --- what a driver may do

    @rule(name=st.sampled_from(["device_feature_select", "driver_feature_select"]), value=words)
    def select_word(self, name: str, value: int) -> None:
        self.card[name] = value
        self.selects[name] = value

    @rule(value=indexes)
    def select_queue(self, value: int) -> None:
        self.card["queue_select"] = value
        self.selects["queue_select"] = value

    @rule(value=st.integers(0, 0xFFFF_FFFF))
    def accept(self, value: int) -> None:
        select = self.selects["driver_feature_select"]
        self.card["driver_feature"] = value
        if self.status & S.FEATURES_OK:
            return
        if select < 4:
            self.accepted[select] = value
        elif value:
            self.beyond = True

    @rule(
        extra=st.sampled_from(
            [0, core.F.RING_PACKED, core.F.RING_RESET, core.F.RING_RESET | core.F.EVENT_IDX]
        )
    )
    def accept_well(self, extra: int) -> None:
        for select in range(4):
            self.select_word("driver_feature_select", select)
            self.accept((core.F.VERSION_1 | extra) >> 32 * select & 0xFFFF_FFFF)

    @rule()
    def advance(self) -> None:
        following = [step for step in STEPS if not self.status & step]
        if not following:
            return
        self.card["device_status"] = self.status | following[0]
        fine = self.features & core.F.VERSION_1 and not self.features & ~OFFERED and not self.beyond
        if following[0] != S.FEATURES_OK or fine:
            self.status |= following[0]

    @rule(skip=st.integers(1, 3))
    def jump(self, skip: int) -> None:
        """Set a bit whose turn it is not: nothing happens."""
        following = [step for step in STEPS if not self.status & step]
        if len(following) > skip:
            self.card["device_status"] = self.status | following[skip]

    @rule()
    def reset(self) -> None:
        self.card["device_status"] = 0
        self.forget()

    @rule()
    def reset_function(self) -> None:
        self.card.function.reset()
        self.forget()

    @rule(value=st.one_of(st.sampled_from([1, 2, 16, 256, 1024, 0, 3, 100, 2048, 0x8000])))
    def size(self, value: int) -> None:
        self.card["queue_size"] = value
        ring = self.ring
        proper = 0 < value <= LARGEST and (self.packed or not value & (value - 1))
        if ring is not None and not ring.enabled and proper:
            ring.size = value

    @rule(
        name=st.sampled_from(["queue_desc", "queue_driver", "queue_device"]),
        value=st.one_of(st.sampled_from([0x1000, 0x1001, 0x2004]), st.integers(0, (1 << 64) - 1)),
    )
    def address(self, name: str, value: int) -> None:
        self.card[name] = value
        ring = self.ring
        if ring is not None and not ring.enabled:
            ring.areas[name] = value

    @rule(value=st.integers(0, VECTORS))
    def vector(self, value: int) -> None:
        self.card["queue_msix_vector"] = value
        if self.ring is not None:
            self.ring.vector = value if value < VECTORS else NO_VECTOR

    @rule(value=st.integers(0, VECTORS))
    def vector_for_config(self, value: int) -> None:
        self.card["config_msix_vector"] = value
        self.config_vector = value if value < VECTORS else NO_VECTOR

    @rule(value=st.sampled_from([1, 1, 1, 0, 2]))
    def enable(self, value: int) -> None:
        self.card["queue_enable"] = value
        ring = self.ring
        if ring is None or value != 1 or not self.status & S.FEATURES_OK:
            return
        alignments = {"queue_desc": 16, "queue_driver": 4 if self.packed else 2, "queue_device": 4}
        aligned = all(ring.areas[name] % step == 0 for name, step in alignments.items())
        if aligned and (self.packed or not ring.size & (ring.size - 1)):
            ring.enabled = True

    @rule(value=st.sampled_from([1, 0]))
    def reset_queue(self, value: int) -> None:
        self.card["queue_reset"] = value
        may = self.status & S.FEATURES_OK and self.features & core.F.RING_RESET
        if self.ring is not None and value == 1 and may:
            self.rings[self.selects["queue_select"]] = Ring()

    @rule(index=st.integers(0, 2), size=st.sampled_from([2, 4]))
    def notify(self, index: int, size: int) -> None:
        if not self.status & S.DRIVER_OK:  # else it depends on what lies in the rings
            self.card.notify(index, size)

    # --- what must show

    @invariant()
    def registers_show_the_model(self) -> None:
        if not hasattr(self, "card"):
            return
        for name, value in self.selects.items():
            assert self.card[name] == value
        word = self.selects["device_feature_select"]
        assert (
            self.card["device_feature"] & (OFFERED >> 32 * word & 0xFFFF_FFFF)
            == (OFFERED >> 32 * word) & 0xFFFF_FFFF
        )
        word = self.selects["driver_feature_select"]
        assert self.card["driver_feature"] == (self.accepted[word] if word < 4 else 0)
        assert self.card["device_status"] & ~S.DEVICE_NEEDS_RESET == self.status
        assert self.card["config_msix_vector"] == self.config_vector
        assert self.card["num_queues"] == QUEUES
        ring = self.ring
        assert self.card["queue_size"] == (ring.size if ring is not None else 0)
        assert self.card["queue_enable"] == (ring is not None and ring.enabled)
        assert self.card["queue_msix_vector"] == (ring.vector if ring is not None else NO_VECTOR)
        for name in ("queue_desc", "queue_driver", "queue_device"):
            assert self.card[name] == (ring.areas[name] if ring is not None else 0)

    def teardown(self) -> None:
        if hasattr(self, "card"):
            self.card.close()


TestRegisters = Registers.TestCase
TestRegisters.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
