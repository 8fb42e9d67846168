"""Every interleaving of two programs that share memory, by exhaustive search.

A program is ordinary code over a :class:`Shared`: the model's ends run as they are. What a program does next
depends only on the values that it has loaded so far, so it is run again from its start with those values
whenever it needs another one; each access is a point where the other program may go on.

Stores wait in a buffer of their program and reach memory in any order, but two to the same place keep theirs,
none passes a release, and a fence waits for all of them. Loads happen in the order of the program. So memory
is weaker than that of any real machine for stores, and what is not found is a missing acquire.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from virtio.queue.model import SharedMemory

Store = tuple[int, bytes]
"""Address and data; address -1: a notification of the other program."""
NOTIFY: Store = (-1, b"")
RELEASE: Store = (-2, b"")
SLEEP = -3
"""As the address of a load: wait for a notification."""
FENCE = None

Fence = tuple[str, str, str]
"""One to leave out: which end's, in what function, and its kind."""


class _Ask(Exception):  # noqa: N818 - it is no error
    """A value is needed that is not known yet."""

    def __init__(self, address: int, size: int) -> None:
        self.wanted = (address, size)


class Shared(SharedMemory):
    """Memory that answers loads from a list of values and notes stores."""

    def __init__(self, size: int, values: list[bytes], end: str, dropped: Fence | None) -> None:
        super().__init__(bytearray(size), end=end)
        self.actions: list[Store | None] = []
        self._values = iter(values)
        self._dropped = dropped

    def _ask(self, address: int, size: int) -> bytes:
        for value in self._values:
            self.actions.clear()
            return value
        raise _Ask(address, size)

    def load(self, address: int, size: int, part: str = "") -> bytes:
        return self._ask(address, size)

    def load16(self, address: int, part: str = "") -> int:
        return int.from_bytes(self._ask(address, 2), "little")

    def load64(self, address: int, part: str = "") -> int:
        return int.from_bytes(self._ask(address, 8), "little")

    def store(self, address: int, data: bytes, part: str = "") -> None:
        self.actions.append((address, data))

    def store16(self, address: int, value: int, part: str = "") -> None:
        self.store(address, (value & 0xFFFF).to_bytes(2, "little"))

    def store32(self, address: int, value: int, part: str = "") -> None:
        self.store(address, value.to_bytes(4, "little"))

    def store64(self, address: int, value: int, part: str = "") -> None:
        self.store(address, value.to_bytes(8, "little"))

    def acquire(self) -> None:
        pass

    def release(self) -> None:
        if not self._left_out("release"):
            self.actions.append(RELEASE)

    def fence(self) -> None:
        if not self._left_out("fence"):
            self.actions.append(FENCE)

    def _left_out(self, kind: str) -> bool:
        return (self.end, sys._getframe(2).f_code.co_name, kind) == self._dropped

    def notify(self) -> None:
        """Wake the other program, now or when it goes to sleep."""
        self.actions.append(NOTIFY)

    def sleep(self) -> None:
        """Wait until the other program notifies this one."""
        self._ask(SLEEP, 0)


@dataclass(slots=True)
class _Node:
    """A program after it has loaded certain values: what it stores next, and what it then wants to load."""

    values: list[bytes]
    actions: list[Store | None]
    wanted: tuple[int, int] | None
    """None: it has ended."""
    children: dict[bytes, int] = field(default_factory=dict)


class Program:
    """All that a program can do, found out as far as it is needed."""

    def __init__(self, run: Callable[[Shared], None], size: int, end: str, dropped: Fence | None) -> None:
        self._run = run
        self._size = size
        self._end = end
        self._dropped = dropped
        self.nodes: list[_Node] = []
        self._add([])

    def _add(self, values: list[bytes]) -> int:
        memory = Shared(self._size, values, self._end, self._dropped)
        wanted = None
        try:
            self._run(memory)
        except _Ask as ask:
            wanted = ask.wanted
        self.nodes.append(_Node(values, memory.actions, wanted))
        return len(self.nodes) - 1

    def after(self, node: int, value: bytes) -> int:
        """The node after loading one more value."""
        children = self.nodes[node].children
        if value not in children:
            children[value] = self._add([*self.nodes[node].values, value])
        return children[value]


End = tuple[int, int, tuple[Store, ...], bool]
"""Node, actions done, stores that wait, notified."""
State = tuple[bytes, End, End]


class StuckError(AssertionError):
    """A program waits for something that never comes."""


def explore(programs: tuple[Program, Program], size: int, limit: int = 3_000_000) -> int:
    """Go through all interleavings until the first program has ended; return how many states there are.

    Raises :exc:`StuckError` with the steps that led there if neither can go on before that, and whatever a
    program raises.
    """

    def settle(which: int, end: End) -> End:
        """Put stores into the buffer, up to a fence that has to wait for it: nobody sees that."""
        node, done, buffer, notified = end
        actions = programs[which].nodes[node].actions
        while done < len(actions):
            action = actions[done]
            if action is FENCE:
                if buffer:
                    break
            elif action != RELEASE or buffer:
                buffer = (*buffer, action)
            done += 1
        return node, done, buffer, notified

    begin: State = (bytes(size), settle(0, (0, 0, (), False)), settle(1, (0, 0, (), False)))
    came_from: dict[State, tuple[State, str] | None] = {begin: None}
    todo = [begin]
    while todo:
        state = todo.pop()
        if _ended(programs[0], state[1]):
            continue
        steps = [step for which in (0, 1) for step in _steps(programs, state, which, settle)]
        if not steps:
            raise StuckError("\n".join(_story(came_from, state)))
        for label, following in steps:
            if following not in came_from:
                came_from[following] = (state, label)
                todo.append(following)
        if len(came_from) > limit:
            raise RuntimeError(f"more than {limit} states")
    return len(came_from)


def _ended(program: Program, end: End) -> bool:
    node = program.nodes[end[0]]
    return node.wanted is None and end[1] == len(node.actions) and not end[2]


def _steps(
    programs: tuple[Program, Program], state: State, which: int, settle: Callable[[int, End], End]
) -> list[tuple[str, State]]:
    memory, ends = state[0], [state[1], state[2]]
    node, done, buffer, notified = ends[which]
    name = ("driver", "device")[which]
    found: list[tuple[str, State]] = []

    def reach(label: str, memory: bytes, end: End, other: End) -> None:
        pair = (settle(which, end), other)
        found.append((f"{name} {label}", (memory, *(pair if which == 0 else pair[::-1]))))

    other = ends[1 - which]
    for index, (address, data) in enumerate(buffer):
        if address == RELEASE[0]:
            break
        rest = buffer[:index] + buffer[index + 1 :]
        while rest and rest[0] == RELEASE:
            rest = rest[1:]
        if address == NOTIFY[0]:
            if index == 0:
                woken = (other[0], other[1], other[2], True)
                reach("notifies", memory, (node, done, rest, notified), woken)
            continue
        before = buffer[:index]
        if any(place < address + len(data) and address < place + len(old) for place, old in before):
            continue
        written = memory[:address] + data + memory[address + len(data) :]
        reach(f"stores {data.hex()} at {address:#x}", written, (node, done, rest, notified), other)

    here = programs[which].nodes[node]
    if done < len(here.actions) or here.wanted is None:
        return found
    address, size = here.wanted
    if address == SLEEP:
        if notified:
            reach("wakes", memory, (programs[which].after(node, b""), 0, buffer, False), other)
        return found
    own = bytearray(memory)
    for place, data in buffer:
        if place >= 0:
            own[place : place + len(data)] = data
    value = bytes(own[address : address + size])
    after = programs[which].after(node, value)
    reach(f"loads {value.hex()} from {address:#x}", memory, (after, 0, buffer, notified), other)
    return found


def _story(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    story: list[str] = []
    while (step := came_from[state]) is not None:
        state, label = step
        story.append(label)
    return story[::-1]
