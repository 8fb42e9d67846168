"""The device status field as a state machine (VIRTIO 1.4, 2.1, 3.1 and 3.4).

::

    RESET ─ACKNOWLEDGE→ ACKNOWLEDGED ─DRIVER→ DRIVEN ─FEATURES_OK→ NEGOTIATED ─DRIVER_OK→ RUNNING
                                                                                  ↑         │SUSPEND
                                                                                DRIVER_OK   ↓
                                                                                  └──── SUSPENDED

``FAILED`` is reached from everywhere, ``RESET`` too. ``DEVICE_NEEDS_RESET`` is the device's own bit and
stands beside the state. Nothing here does I/O: the device asks for the steps that a write means, takes
them one by one, and commits each.
"""

import enum
import functools
import operator
from collections.abc import Mapping

from virtio.errors import ProtocolError
from virtio.spec.core import STATUS


class State(enum.Enum):
    """Where the initialization of a device stands; the value is the status that the driver reads."""

    RESET = 0
    ACKNOWLEDGED = STATUS.ACKNOWLEDGE
    DRIVEN = STATUS.ACKNOWLEDGE | STATUS.DRIVER
    NEGOTIATED = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK
    RUNNING = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK
    SUSPENDED = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.SUSPEND


TRANSITIONS: Mapping[tuple[State, int], State] = {
    (State.RESET, STATUS.ACKNOWLEDGE): State.ACKNOWLEDGED,
    (State.ACKNOWLEDGED, STATUS.DRIVER): State.DRIVEN,
    (State.DRIVEN, STATUS.FEATURES_OK): State.NEGOTIATED,
    (State.NEGOTIATED, STATUS.DRIVER_OK): State.RUNNING,
    (State.RUNNING, STATUS.SUSPEND): State.SUSPENDED,
    (State.SUSPENDED, STATUS.DRIVER_OK): State.RUNNING,
}
"""Which bit, set by the driver in which state, leads where. What is not here is refused."""

ORDER = (STATUS.ACKNOWLEDGE, STATUS.DRIVER, STATUS.FEATURES_OK, STATUS.DRIVER_OK, STATUS.SUSPEND)
"""The order in which bits take effect that one write sets together."""

DRIVER_BITS = functools.reduce(operator.or_, ORDER) | STATUS.FAILED


class StatusMachine:
    """The state, and the two bits beside it."""

    def __init__(self) -> None:
        """Start as after a reset."""
        self.reset()

    @property
    def value(self) -> int:
        """What the driver reads."""
        value = int(self.state.value)
        if self.failed:
            value |= STATUS.FAILED
        if self.needs_reset:
            value |= STATUS.DEVICE_NEEDS_RESET
        return value

    def plan(self, value: int, *, suspend: bool) -> tuple[State, ...]:
        """Return the states that writing ``value`` (not 0) leads through; raise if it must not be written.

        A write that sets FAILED leads nowhere: the caller sets ``failed``. Nothing has changed yet: whoever
        carries out a step calls :meth:`commit` when it is done.
        ``suspend`` tells whether ``VIRTIO_F_SUSPEND`` is negotiated.
        """
        wanted = (
            value & ~STATUS.DEVICE_NEEDS_RESET
        )  # the device's own bit: what the driver writes there is moot
        if unknown := wanted & ~DRIVER_BITS:
            raise ProtocolError(f"the driver sets unknown status bits {unknown:#x}", "2.1")
        current = self.value & ~STATUS.DEVICE_NEEDS_RESET
        if cleared := current & ~wanted:
            raise ProtocolError(f"the driver clears status bits {_names(cleared)} without a reset", "2.1.1")
        fresh = wanted & ~current
        if not suspend or self.state is not State.RUNNING:
            fresh &= ~STATUS.SUSPEND  # to be ignored on a device that is not fully set up (3.4.2)
        if self.failed and fresh:
            raise ProtocolError("the driver gave up on the device and goes on without a reset", "2.1.1")
        if fresh & STATUS.FAILED:
            return ()
        steps = []
        state = self.state
        for bit in ORDER:
            if not fresh & bit:
                continue
            following = TRANSITIONS.get((state, bit))
            if following is None:
                raise ProtocolError(
                    f"the driver sets {STATUS.name(bit)} on a device that is {state.name}", "3.1.1"
                )
            steps.append(following)
            state = following
        return tuple(steps)

    def commit(self, state: State) -> None:
        """Take a step that was planned and carried out."""
        self.state = state

    def reset(self) -> None:
        """Go back to the start."""
        self.state = State.RESET
        self.failed = False
        self.needs_reset = False


def _names(bits: int) -> str:
    return "|".join(code.name for code in STATUS if bits & code.value)
