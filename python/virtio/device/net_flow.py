"""Flow filters of the network device (VIRTIO 1.4, 5.1.9.6): capabilities, and groups, classifiers and rules.

No queue and no packet here: what administration commands carry comes in as bytes, is checked, and goes to the
:class:`~virtio._native.NetPort` as a list of rules in the order in which they are to be applied.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from virtio._native import NetPort
from virtio.device.admin import (
    EEXIST,
    LARGEST,
    OPCODE,
    QUALIFIER,
    STATUS,
    Administrator,
    Capability,
    CommandError,
    InvalidFieldError,
    SelfGroup,
    unpack,
)
from virtio.errors import ConfigurationError, StateError
from virtio.queue.device import DeviceQueue
from virtio.spec import admin, net_flow
from virtio.spec.admin_data import ANSWER_SIZE, HEADER, bits_of
from virtio.spec.layout import Record

TYPE, ACTION, OBJECT = net_flow.MASK_TYPE, net_flow.ACTION, net_flow.RESOURCE_OBJ
GROUPS = 64
CLASSIFIERS = 64
RULES = 1024
LAST_PRIORITY = 255
SELECTORS = 3

_ACTIONS = bytes([ACTION.DROP, ACTION.DIRECT_RX_VQ])
_SEPARATOR = bytes(4)
"""Stands between two lists of commands, each of which begins with its length."""
_PARTIAL = net_flow.MASK_F.PARTIAL_MASK
_LIMITS = (
    "groups_limit",
    "classifiers_limit",
    "rules_limit",
    "rules_per_group_limit",
    "last_rule_priority",
    "selectors_per_classifier_limit",
)
_NETWORK = (TYPE.IPV4, TYPE.IPV6)
_TRANSPORT = (TYPE.TCP, TYPE.UDP)
_PROTOCOL_FIELD = {TYPE.IPV4: 9, TYPE.IPV6: 6}
"""Where an IP header says what comes next."""
_ETHERTYPE_FIELD = slice(12, 14)


class Host(Protocol):
    """What flow filters belong to."""

    port: NetPort

    @property
    def data_queues(self) -> Sequence[DeviceQueue]:
        """The receive and transmit queues that this driver may use."""


@dataclass(frozen=True)
class Selector:
    """A header, and which of its bits count."""

    type: int
    flags: int
    mask: bytes

    @property
    def partial(self) -> bool:
        """Whether some field counts in part only."""
        header = net_flow.HEADERS[self.type]
        bits, left = int.from_bytes(self.mask), 8 * header.size
        for width in header.fields.values():
            left -= width
            if bits >> left & (1 << width) - 1 not in (0, (1 << width) - 1):
                return True
        return False

    def within(self, other: "Selector") -> bool:
        """Whether nothing counts here that does not count there."""
        inside = int.from_bytes(self.mask) & ~int.from_bytes(other.mask) == 0
        return inside and not self.flags & ~other.flags and (bool(other.flags & _PARTIAL) or not self.partial)


@dataclass(frozen=True)
class _Group:
    data: bytes
    priority: int


@dataclass(frozen=True)
class _Classifier:
    data: bytes
    selectors: tuple[Selector, ...]

    @property
    def types(self) -> bytes:
        return bytes(selector.type for selector in self.selectors)

    @property
    def masks(self) -> bytes:
        return b"".join(selector.mask for selector in self.selectors)


@dataclass(frozen=True)
class _Rule:
    data: bytes
    group: int
    classifier: int
    priority: int
    keys: bytes
    queue: int | None
    """A receive queue, counted from 0; None: packets are dropped."""


class _Capability(Capability):
    """A capability with a form of its own."""

    def __init__(self, number: int, name: str, offered: bytes, check: Callable[[bytes], bytes]) -> None:
        """``check`` returns what was taken, or raises :class:`CommandError`."""
        super().__init__(number, name, offered, in_use=lambda: b"")
        self._check = check

    def take(self, wanted: bytes) -> None:
        self.taken = self._check(wanted)


def _selectors(records: Sequence[Record]) -> tuple[Selector, ...]:
    found = []
    for record in records:
        header = net_flow.HEADERS.get(record.type)
        if header is None:
            raise InvalidFieldError(f"selectors of type {record.type} are not offered")
        if len(record.mask) != header.size:
            raise InvalidFieldError(f"a mask of {len(record.mask)} bytes for a header of {header.size}")
        found.append(Selector(record.type, record.flags, record.mask))
    return tuple(found)


Item = TypeVar("Item", _Group, _Classifier, _Rule)


class _Objects(Generic[Item]):
    """The resource objects of one type."""

    def __init__(self, filters: "FlowFilters", name: str) -> None:
        self.filters = filters
        self.name = name
        self.found: dict[int, Item] = {}

    def read(self, number: int, value: bytes, before: Item | None) -> Item:
        """Check what an object is to be; ``before``: what it was."""
        raise NotImplementedError

    def used(self, number: int) -> bool:
        """Whether other objects depend on it."""
        return False

    def create(self, number: int, value: bytes) -> None:
        self.filters.must_be_enabled()
        if number in self.found:
            raise CommandError(f"{self.name} {number} is there already", EEXIST)
        self.found[number] = self.read(number, value, None)
        self.filters.apply()

    def modify(self, number: int, value: bytes) -> None:
        before = self._get(number)
        self._must_be_free(number)
        self.found[number] = self.read(number, value, before)
        self.filters.apply()

    def query(self, number: int) -> bytes:
        return self._get(number).data

    def destroy(self, number: int) -> None:
        self._get(number)
        self._must_be_free(number)
        del self.found[number]
        self.filters.apply()

    def reset(self) -> None:
        self.found.clear()

    def _get(self, number: int) -> Item:
        self.filters.must_be_enabled()
        if number not in self.found:
            raise CommandError(f"there is no {self.name} {number}", STATUS.ENXIO)
        return self.found[number]

    def _must_be_free(self, number: int) -> None:
        if self.used(number):
            raise CommandError(f"rules depend on {self.name} {number}", STATUS.EBUSY)

    def must_have_room(self, most: int) -> None:
        """Refuse one object more than the driver said that it uses."""
        if len(self.found) >= most:
            raise CommandError(f"{self.name}s: the driver said that it uses {most}", STATUS.ENOSPC)


class _Groups(_Objects[_Group]):
    def read(self, number: int, value: bytes, before: _Group | None) -> _Group:
        limits = self.filters.limits
        if before is None:
            self.must_have_room(min(limits.groups_limit, limits.rules_per_group_limit))
        priority = unpack(net_flow.GROUP, value).group_priority
        if any(
            group.priority == priority for other, group in self.found.items() if other != number
        ):  # 5.1.9.6.3.1
            raise InvalidFieldError(f"another group has priority {priority}")
        return _Group(net_flow.GROUP.pack(group_priority=priority), priority)

    def used(self, number: int) -> bool:
        return any(rule.group == number for rule in self.filters.rules.found.values())


class _Classifiers(_Objects[_Classifier]):
    def read(self, number: int, value: bytes, before: _Classifier | None) -> _Classifier:
        limits = self.filters.limits
        if before is None:
            self.must_have_room(limits.classifiers_limit)
        selectors = _selectors(unpack(net_flow.CLASSIFIER, value).selectors)
        if not 1 <= len(selectors) <= limits.selectors_per_classifier_limit:
            raise InvalidFieldError(f"a classifier of {len(selectors)} selectors")
        for selector, possible in zip(selectors, ((TYPE.ETH,), _NETWORK, _TRANSPORT), strict=False):
            if selector.type not in possible:
                raise InvalidFieldError("selectors are for Ethernet, then IP, then TCP or UDP (5.1.9.6.3.2)")
            allowed = self.filters.selectors.get(selector.type)
            if allowed is None or not selector.within(allowed):
                raise InvalidFieldError(f"a mask that selector {selector.type} does not have")
        if len(selectors) > 1 and selectors[0].mask[_ETHERTYPE_FIELD] != b"\xff\xff":
            raise InvalidFieldError("the EtherType of a classifier for IP counts")
        if len(selectors) > 2 and selectors[1].mask[_PROTOCOL_FIELD[selectors[1].type]] != 0xFF:
            raise InvalidFieldError("the protocol of a classifier for TCP or UDP counts")
        size = net_flow.CLASSIFIER.minimum + sum(
            net_flow.SELECTOR.minimum + len(selector.mask) for selector in selectors
        )
        return _Classifier(value[:size], selectors)

    def used(self, number: int) -> bool:
        return any(rule.classifier == number for rule in self.filters.rules.found.values())


class _Rules(_Objects[_Rule]):
    def reset(self) -> None:
        super().reset()
        self.filters.apply()

    def read(self, number: int, value: bytes, before: _Rule | None) -> _Rule:
        limits = self.filters.limits
        if number >= min(limits.rules_limit, limits.rules_per_group_limit):
            raise CommandError(f"rule {number}: the driver said that it uses fewer", STATUS.ENOSPC)
        request = unpack(net_flow.RULE, value)
        if request.group_id not in self.filters.groups.found:
            raise InvalidFieldError(f"a rule of group {request.group_id}, which does not exist")
        classifier = self.filters.classifiers.found.get(request.classifier_id)
        if classifier is None:
            raise InvalidFieldError(f"a rule with classifier {request.classifier_id}, which does not exist")
        if request.rule_priority >= limits.last_rule_priority:
            raise InvalidFieldError(
                f"a rule of priority {request.rule_priority}, not below {limits.last_rule_priority}"
            )
        size = len(classifier.masks)
        if request.key_length != size or len(request.keys) < size:
            raise InvalidFieldError(f"keys of {request.key_length} bytes for masks of {size}")
        keys = request.keys[:size]
        self._check_keys(classifier, keys)
        return _Rule(
            value[: net_flow.RULE.minimum + size],
            request.group_id,
            request.classifier_id,
            request.rule_priority,
            keys,
            self._queue(request),
        )

    def _check_keys(self, classifier: _Classifier, keys: bytes) -> None:
        """The key of each selector says what the next one is about (5.1.9.6.3.3)."""
        types = classifier.types
        if len(types) > 1 and int.from_bytes(keys[_ETHERTYPE_FIELD]) != net_flow.ETHERTYPE[types[1]]:
            raise InvalidFieldError("the EtherType of a key is not that of the next selector")
        ethernet = net_flow.HEADERS[TYPE.ETH].size
        if len(types) > 2 and keys[ethernet + _PROTOCOL_FIELD[types[1]]] != net_flow.PROTOCOL[types[2]]:
            raise InvalidFieldError("the protocol of a key is not that of the next selector")

    def _queue(self, request: Record) -> int | None:
        if request.action not in self.filters.actions:
            raise InvalidFieldError(f"action {request.action} is not among those that the driver uses")
        if request.action == ACTION.DROP:
            return None
        queues = [queue.index for queue in self.filters.host.data_queues if queue.index % 2 == 0]
        if request.vq_index not in queues:
            raise InvalidFieldError(f"virtqueue {request.vq_index} is no receive queue of this driver")
        return int(request.vq_index) // 2


class FlowFilters:
    """The flow filters of a device."""

    def __init__(self, host: Host) -> None:
        """Without any, until the driver makes some."""
        self.host = host
        self.groups = _Groups(self, "group")
        self.classifiers = _Classifiers(self, "classifier")
        self.rules = _Rules(self, "rule")
        # In this order they can be made anew.
        self._objects: dict[int, _Groups | _Classifiers | _Rules] = {
            OBJECT.FF_GROUP: self.groups,
            OBJECT.FF_CLASSIFIER: self.classifiers,
            OBJECT.FF_RULE: self.rules,
        }
        numbers = net_flow.CAPABILITY
        limits = net_flow.CAP_DATA.pack(
            groups_limit=GROUPS,
            classifiers_limit=CLASSIFIERS,
            rules_limit=RULES,
            rules_per_group_limit=RULES,
            last_rule_priority=LAST_PRIORITY,
            selectors_per_classifier_limit=SELECTORS,
        )
        selectors = [
            Selector(kind, _PARTIAL, b"\xff" * header.size) for kind, header in net_flow.HEADERS.items()
        ]
        actions = net_flow.ACTIONS.pack(count=len(_ACTIONS), actions=_ACTIONS)
        self._resources = _Capability(
            numbers.FF_RESOURCE_CAP, "flow filter resources", limits, self._check_limits
        )
        self._selectors = _Capability(
            numbers.FF_SELECTOR_CAP,
            "flow filter selectors",
            _pack_selectors(selectors),
            self._check_selectors,
        )
        self._actions = _Capability(
            numbers.FF_ACTION_CAP, "flow filter actions", actions, self._check_actions
        )
        self._group = SelfGroup()

    @property
    def limits(self) -> Record:
        """How much of everything the driver uses, as it has said: a ``virtio_net_ff_cap_data``."""
        return unpack(net_flow.CAP_DATA, self._resources.taken)

    @property
    def selectors(self) -> dict[int, Selector]:
        """What the driver compares, by the type of selector."""
        return _by_type(self._selectors.taken)

    @property
    def actions(self) -> bytes:
        """What the driver lets become of packets."""
        return bytes(unpack(net_flow.ACTIONS, self._actions.taken).actions)

    def join(self, administrator: Administrator) -> None:
        """Be among what can be commanded of the device itself."""
        group = administrator.groups.setdefault(admin.GROUP.SELF, self._group)
        if not isinstance(group, SelfGroup):
            raise ConfigurationError("the self group of this administrator takes no capabilities")
        group.offer([self._resources, self._selectors, self._actions], self._objects)
        self._group = group

    def must_be_enabled(self) -> None:
        """Refuse what is about objects until the driver has set all three capabilities (5.1.9.6.4)."""
        some = all(self.limits[name] for name in _LIMITS)
        if not (some and self.selectors and self.actions):
            raise CommandError(
                "flow filters are not enabled: the driver sets three capabilities before",
                STATUS.EINVAL,
                QUALIFIER.INVALID_OPCODE,
            )

    def apply(self) -> None:
        """Let the data path have the rules."""

        def order(numbered: tuple[int, _Rule]) -> tuple[int, int, int]:
            number, rule = numbered
            return -self.groups.found[rule.group].priority, -rule.priority, number

        rules = []
        for _, rule in sorted(self.rules.found.items(), key=order):
            classifier = self.classifiers.found[rule.classifier]
            rules.append((classifier.types, classifier.masks, rule.keys, rule.queue))
        self.host.port.set_rules(rules)

    def saved(self) -> bytes:
        """The commands that make another device's filters what these are now, see :func:`split_saved`."""
        op = OPCODE
        commands = [_command(op.LIST_USE, bits_of(self._group.supported))]
        for capability in (self._resources, self._selectors, self._actions):
            if any(capability.taken):
                data = admin.CAP_SET.pack(id=capability.number, cap_specific_data=capability.taken)
                commands.append(_command(op.DRIVER_CAP_SET, data))
        for kind, objects in self._objects.items():
            for number, item in objects.found.items():
                data = admin.OBJ_CREATE.pack(
                    hdr={"type": kind, "id": number}, resource_obj_specific_data=item.data
                )
                commands.append(_command(op.RESOURCE_OBJ_CREATE, data))
        commands.append(_command(op.LIST_USE, bits_of(self._group.used)))
        return _SEPARATOR + b"".join(len(command).to_bytes(4, "little") + command for command in commands)

    def restore(self, commands: Sequence[bytes], administrator: Administrator) -> None:
        """Carry out what was saved; what makes no sense here is refused like the driver's own commands."""
        self._group.reset()
        for command in commands:
            administrator.execute(command, ANSWER_SIZE)

    # --- what the driver may take of the capabilities

    def _check_limits(self, wanted: bytes) -> bytes:
        most, now = unpack(net_flow.CAP_DATA, self._resources.offered), self.limits
        new = unpack(net_flow.CAP_DATA, wanted)
        for name in _LIMITS:
            if new[name] > most[name]:
                raise InvalidFieldError(f"{name} {new[name]}: there can be {most[name]}")
            if new[name] < now[name]:
                self._must_be_unused()
        return net_flow.CAP_DATA.pack(**{name: new[name] for name in _LIMITS})

    def _check_selectors(self, wanted: bytes) -> bytes:
        most, new = _by_type(self._selectors.offered), _by_type(wanted)
        for kind, selector in new.items():
            if not selector.within(most[kind]):
                raise InvalidFieldError(f"a mask or flags that selector {kind} does not have")
        for kind, selector in self.selectors.items():
            if kind not in new or not selector.within(new[kind]):
                self._must_be_unused()
        return _pack_selectors(new.values())

    def _check_actions(self, wanted: bytes) -> bytes:
        new = bytes(unpack(net_flow.ACTIONS, wanted).actions)
        if list(new) != sorted(set(new)) or not set(new) <= set(_ACTIONS):
            raise InvalidFieldError(f"actions {list(new)}, of {list(_ACTIONS)} in their order")
        if not set(self.actions) <= set(new):
            self._must_be_unused()
        return net_flow.ACTIONS.pack(count=len(new), actions=new)

    def _must_be_unused(self) -> None:
        if any(objects.found for objects in self._objects.values()):
            raise CommandError("less of a capability while there are flow filters", STATUS.EBUSY)


def split_saved(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return what stands before :meth:`FlowFilters.saved`, of the same form, and the commands of that.

    Raises :exc:`~virtio.errors.StateError`.
    """
    pieces: list[bytes] = []
    at, begin = 0, None
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        end = at + 4 + size
        if end > len(data) or size > LARGEST or (size == 0 and begin is not None):
            raise StateError(f"a command of {size} bytes among {len(data)}")
        if size == 0:
            begin = at
        elif begin is not None:
            pieces.append(data[at + 4 : end])
        at = end
    return data[:begin], pieces


def _by_type(data: bytes) -> dict[int, Selector]:
    """The selectors of a capability, which are in the order of their types, each once."""
    selectors = _selectors(unpack(net_flow.CAP_MASK_DATA, data).selectors)
    types = [selector.type for selector in selectors]
    if types != sorted(set(types)):
        raise InvalidFieldError(f"selectors of types {types}, not each once and in order")
    return {selector.type: selector for selector in selectors}


def _pack_selectors(selectors: Collection[Selector]) -> bytes:
    rows = [
        {"type": one.type, "flags": one.flags, "length": len(one.mask), "mask": one.mask} for one in selectors
    ]
    return net_flow.CAP_MASK_DATA.pack(count=len(rows), selectors=rows)


def _command(opcode: int, data: bytes) -> bytes:
    return HEADER.pack(opcode=opcode, group_type=admin.GROUP.SELF) + data
