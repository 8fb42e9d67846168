"""Flow filters from the driver's side (VIRTIO 1.4, 5.1.9.6): rules about packets, with fields by name.

::

    with virtio.connect("vfio-user:/tmp/card.sock", "net", pairs=4) as card:
        flows = card.flow_filters
        flows.add({"ipv4.src": "10.0.0.0/8", "tcp.dst_port": 5000}, queue=1)
        flows.add({"udp.dst_port": 53}, queue=None)             # dropped

Fields are those of ``virtio.spec.net_flow.HEADERS``, as ``"ipv4.src"``.
"""

import ipaddress
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from virtio.driver.admin import SELF, AdminError, AdminGroup
from virtio.errors import ConfigurationError, ProtocolError
from virtio.spec import net_flow
from virtio.spec.layout import Record, Struct

if TYPE_CHECKING:
    from virtio.driver.net import NetworkDriver

TYPE, ACTION, OBJECT, CAPABILITY = (
    net_flow.MASK_TYPE,
    net_flow.ACTION,
    net_flow.RESOURCE_OBJ,
    net_flow.CAPABILITY,
)

Value = int | str | bytes
"""An unsigned number; an address as text, with ``/24`` or the like for a part of it; or a field's bytes."""
Match = Mapping[str, Value | tuple[Value, Value]]
"""Values of fields, by name; a pair is a value and a mask of the bits that count."""

_NAMES = {header.name: kind for kind, header in net_flow.HEADERS.items()}
_NETWORK = {4: TYPE.IPV4, 6: TYPE.IPV6}
_NEXT = {TYPE.IPV4: "protocol", TYPE.IPV6: "next_header"}
_PARTIAL = net_flow.MASK_F.PARTIAL_MASK


@dataclass(frozen=True)
class FlowRule:
    """A rule that the device has."""

    number: int
    """The resource object's number."""
    group: int
    """The priority of its group: groups come from the highest to the lowest."""
    priority: int
    """Within the group, from the highest to the lowest."""
    queue: int | None
    """The receive queue that gets the packets, counted from 0; None: they are dropped."""
    types: tuple[int, ...]
    masks: bytes
    keys: bytes


@dataclass
class _Numbered:
    """A group or a classifier, and how many rules need it."""

    number: int
    rules: int = 0


@dataclass
class _Selectors:
    """Masks and keys of headers that are being put together, as numbers."""

    masks: dict[int, int] = field(default_factory=dict)
    keys: dict[int, int] = field(default_factory=dict)

    def set(self, kind: int, name: str, value: int, mask: int) -> None:
        header = net_flow.HEADERS[kind]
        left = 8 * header.size
        for other, width in header.fields.items():
            left -= width
            if other == name:
                self.masks[kind] = self.masks.get(kind, 0) | mask << left
                self.keys[kind] = self.keys.get(kind, 0) | (value & mask) << left

    def pack(self, numbers: Mapping[int, int]) -> list[bytes]:
        return [numbers[kind].to_bytes(net_flow.HEADERS[kind].size) for kind in sorted(numbers)]


class FlowFilters:
    """The rules that a driver has given its device. Any thread may call."""

    def __init__(self, card: "NetworkDriver") -> None:
        """Take all that the device offers of flow filters.

        Raises :exc:`~virtio.ConfigurationError` if it offers none, or the transport cannot carry them.
        """
        if card.administration is None:
            raise ConfigurationError(
                f"{card.end.address}: no administration virtqueue, which flow filters need; "
                "vfio-user, pci and mem carry one, vhost-user and mmio do not"
            )
        self._pairs = card.pairs
        self._lock = threading.Lock()
        self._admin: AdminGroup = card.administration.group(SELF)
        wanted = {CAPABILITY.FF_RESOURCE_CAP, CAPABILITY.FF_SELECTOR_CAP, CAPABILITY.FF_ACTION_CAP}
        # A device without any capabilities does not have the commands about them.
        try:
            missing = wanted - self._admin.capabilities()
        except AdminError:
            missing = wanted
        if missing:
            raise ConfigurationError(f"{card.end.address}: the device offers no flow filters")
        self.limits = self._take(CAPABILITY.FF_RESOURCE_CAP, net_flow.CAP_DATA)
        """How much there can be, by the names of ``virtio_net_ff_cap_data``."""
        selectors = self._take(CAPABILITY.FF_SELECTOR_CAP, net_flow.CAP_MASK_DATA).selectors
        self.selectors: dict[int, Record] = {selector.type: selector for selector in selectors}
        """What can be compared, by ``VIRTIO_NET_FF_MASK_TYPE_…``: ``flags`` and ``mask``."""
        self.actions = frozenset(self._take(CAPABILITY.FF_ACTION_CAP, net_flow.ACTIONS).actions)
        """What can become of packets, as ``VIRTIO_NET_FF_ACTION_…``."""
        self._rules: dict[int, FlowRule] = {}
        self._groups: dict[int, _Numbered] = {}
        self._classifiers: dict[tuple[tuple[int, ...], bytes], _Numbered] = {}

    @property
    def rules(self) -> list[FlowRule]:
        """The rules, from the first to be applied to the last."""
        return sorted(self._rules.values(), key=lambda rule: (-rule.group, -rule.priority))

    def add(
        self,
        match: Match,
        *,
        queue: int | None,
        priority: int | None = None,
        group: int = 0,
        version: Literal[4, 6] = 4,
    ) -> FlowRule:
        """Have packets that ``match`` put into receive queue ``queue``, counted from 0, or dropped: None.

        ``group``: the priority of the rule's group, which is made if there is none. ``priority``: among the
        rules of the group; by default lower than those of all others. Of rules about TCP or UDP that name
        no field of IP, ``version`` says of which. Raises :exc:`~virtio.ConfigurationError` for what cannot
        be, :class:`~virtio.driver.admin.AdminError` if the device refuses it.
        """
        types, masks, keys = self._read(match, version)
        action = ACTION.DROP if queue is None else ACTION.DIRECT_RX_VQ
        if action not in self.actions:
            raise ConfigurationError(f"the device does not have {net_flow.ACTION.name(action)}")
        if queue is not None and not 0 <= queue < self._pairs:
            raise ConfigurationError(f"there is no receive queue {queue}: {self._pairs} pairs are set up")
        if not 0 <= group < 1 << 16:
            raise ConfigurationError(f"a group of priority {group}: it has 16 bits")
        with self._lock:
            number = _free(
                self._rules, min(self.limits.rules_limit, self.limits.rules_per_group_limit), "rules"
            )
            rule = FlowRule(
                number, group, self._priority(group, priority), queue, types, b"".join(masks), b"".join(keys)
            )
            owner = self._group(group)
            try:
                classifier = self._classifier(types, masks)
                try:
                    self._create_rule(rule, owner.number, classifier.number)
                except BaseException:
                    self._let_go_of_classifier(types, rule.masks)
                    raise
            except BaseException:
                self._let_go_of_group(group)
                raise
            owner.rules += 1
            classifier.rules += 1
            self._rules[number] = rule
        return rule

    def remove(self, rule: FlowRule) -> None:
        """Have the device forget a rule, and the group and classifier that no other rule needs."""
        with self._lock:
            if self._rules.get(rule.number) != rule:
                raise ConfigurationError(f"{rule} is not among the rules")
            self._admin.destroy(OBJECT.FF_RULE, rule.number)
            del self._rules[rule.number]
            # 5.1.9.6.5: only when no rule depends on them.
            self._classifiers[rule.types, rule.masks].rules -= 1
            self._groups[rule.group].rules -= 1
            self._let_go_of_classifier(rule.types, rule.masks)
            self._let_go_of_group(rule.group)

    def clear(self) -> None:
        """Remove all rules."""
        for rule in self.rules:
            self.remove(rule)

    def query(self, rule: FlowRule) -> Record:
        """Return what the device has of a rule, a ``virtio_net_resource_obj_ff_rule``."""
        return net_flow.RULE.unpack(self._admin.query(OBJECT.FF_RULE, rule.number))

    def _take(self, number: int, layout: Struct) -> Record:
        value = self._admin.capability(number)
        found = layout.unpack(value)
        self._admin.take_capability(number, value)
        return found

    # --- objects

    def _create_rule(self, rule: FlowRule, group: int, classifier: int) -> None:
        self._admin.create(
            OBJECT.FF_RULE,
            rule.number,
            net_flow.RULE.pack(
                group_id=group,
                classifier_id=classifier,
                rule_priority=rule.priority,
                key_length=len(rule.keys),
                action=ACTION.DROP if rule.queue is None else ACTION.DIRECT_RX_VQ,
                vq_index=0 if rule.queue is None else 2 * rule.queue,
                keys=rule.keys,
            ),
        )

    def _group(self, priority: int) -> _Numbered:
        if priority not in self._groups:
            most = min(self.limits.groups_limit, self.limits.rules_per_group_limit)
            number = _free((group.number for group in self._groups.values()), most, "groups")
            self._admin.create(OBJECT.FF_GROUP, number, net_flow.GROUP.pack(group_priority=priority))
            self._groups[priority] = _Numbered(number)
        return self._groups[priority]

    def _let_go_of_group(self, priority: int) -> None:
        if not self._groups[priority].rules:
            self._admin.destroy(OBJECT.FF_GROUP, self._groups[priority].number)
            del self._groups[priority]

    def _classifier(self, types: tuple[int, ...], masks: list[bytes]) -> _Numbered:
        key = (types, b"".join(masks))
        if key not in self._classifiers:
            numbers = (classifier.number for classifier in self._classifiers.values())
            number = _free(numbers, self.limits.classifiers_limit, "classifiers")
            selectors = [
                {
                    "type": kind,
                    "flags": self.selectors[kind].flags & _PARTIAL,
                    "length": len(mask),
                    "mask": mask,
                }
                for kind, mask in zip(types, masks, strict=True)
            ]
            data = net_flow.CLASSIFIER.pack(count=len(selectors), selectors=selectors)
            self._admin.create(OBJECT.FF_CLASSIFIER, number, data)
            self._classifiers[key] = _Numbered(number)
        return self._classifiers[key]

    def _let_go_of_classifier(self, types: tuple[int, ...], masks: bytes) -> None:
        if not self._classifiers[types, masks].rules:
            self._admin.destroy(OBJECT.FF_CLASSIFIER, self._classifiers[types, masks].number)
            del self._classifiers[types, masks]

    def _priority(self, group: int, wanted: int | None) -> int:
        most = self.limits.last_rule_priority - 1
        taken = {rule.priority for rule in self._rules.values() if rule.group == group}
        if wanted is None:
            wanted = min(taken, default=most + 1) - 1
        if not 0 <= wanted <= most:
            raise ConfigurationError(f"a rule of priority {wanted}: the device takes 0 to {most}")
        # 5.1.9.6.5: which of two came first nobody could tell.
        if wanted in taken:
            raise ConfigurationError(f"a second rule of priority {wanted} in group {group}")
        return wanted

    # --- what packets are to be like

    def _read(self, match: Match, version: int) -> tuple[tuple[int, ...], list[bytes], list[bytes]]:
        selectors = _Selectors()
        found = {TYPE.ETH}
        for name, value in match.items():
            kind, part = _field(name)
            found.add(kind)
            selectors.set(kind, part, *_value(name, value, net_flow.HEADERS[kind].fields[part]))
        transport = found & set(net_flow.PROTOCOL)
        if transport and not found & set(_NETWORK.values()):
            if version not in _NETWORK:
                raise ConfigurationError(f"IP of version {version}")
            found.add(_NETWORK[version])
        types = tuple(sorted(found))
        if (
            len(types) > (2 if not transport else 3)
            or len(types) > self.limits.selectors_per_classifier_limit
        ):
            raise ConfigurationError(f"no packet has all these headers: {', '.join(match)}")
        # 5.1.9.6.5: each header says what the next one is.
        if len(types) > 1:
            _imply(match, selectors, TYPE.ETH, "type", net_flow.ETHERTYPE[types[1]])
        if len(types) > 2:
            _imply(match, selectors, types[1], _NEXT[types[1]], net_flow.PROTOCOL[types[2]])
        for kind in types:
            selectors.masks.setdefault(kind, 0)
            selectors.keys.setdefault(kind, 0)
            self._check(kind, selectors.masks[kind])
        return types, selectors.pack(selectors.masks), selectors.pack(selectors.keys)

    def _check(self, kind: int, mask: int) -> None:
        offered = self.selectors.get(kind)
        header = net_flow.HEADERS[kind]
        if offered is None:
            raise ConfigurationError(f"the device does not look at {header.name} headers")
        if len(offered.mask) != header.size:
            raise ProtocolError(f"a mask of {len(offered.mask)} bytes for {header.name}", "5.1.9.6.2.2")
        possible = int.from_bytes(offered.mask)
        left = 8 * header.size
        for name, width in header.fields.items():
            left -= width
            whole = (1 << width) - 1
            wanted = mask >> left & whole
            if wanted & ~(possible >> left):
                raise ConfigurationError(f"the device does not compare {header.name}.{name}")
            if wanted not in (0, whole) and not offered.flags & _PARTIAL:
                raise ConfigurationError(f"the device compares {header.name}.{name} as a whole only")


def _free(taken: Iterable[int], most: int, what: str) -> int:
    numbers = set(taken)
    number = next((number for number in range(len(numbers) + 1) if number not in numbers), 0)
    if number >= most:
        raise ConfigurationError(f"the device has no more {what} than {most}")
    return number


def _field(name: str) -> tuple[int, str]:
    header, _, part = name.partition(".")
    kind = _NAMES.get(header)
    if kind is None:
        raise ConfigurationError(f"no header {header!r}: there are {', '.join(_NAMES)}")
    if part not in net_flow.HEADERS[kind].fields:
        known = ", ".join(net_flow.HEADERS[kind].fields)
        raise ConfigurationError(f"no field {part!r} of {header}: there are {known}")
    return kind, part


def _imply(match: Match, selectors: _Selectors, kind: int, part: str, value: int) -> None:
    """Have a field compared that the next header decides about."""
    header = net_flow.HEADERS[kind]
    name, width = f"{header.name}.{part}", header.fields[part]
    if name in match and _value(name, match[name], width)[0] != value:
        raise ConfigurationError(f"{name} of a packet with these headers is {value:#x}")
    selectors.set(kind, part, value, (1 << width) - 1)


def _value(name: str, value: Value | tuple[Value, Value], width: int) -> tuple[int, int]:
    """Return a field's value and mask."""
    whole = (1 << width) - 1
    if isinstance(value, tuple):
        return _number(name, value[0], width), _number(name, value[1], width)
    if isinstance(value, str) and "/" in value:
        text, _, prefix = value.partition("/")
        if not prefix.isdecimal() or int(prefix) > width:
            raise ConfigurationError(f"{name}: {value!r} has no prefix of 0 to {width} bits")
        return _number(name, text, width), whole & ~(whole >> int(prefix))
    return _number(name, value, width), whole


def _number(name: str, value: Value, width: int) -> int:
    try:
        if isinstance(value, bytes):
            number = int.from_bytes(value) if 8 * len(value) == width else -1
        elif isinstance(value, int):
            number = value
        elif width == 48:
            return _number(name, bytes.fromhex(value.replace(":", "").replace("-", "")), width)
        elif width == 32:
            number = int(ipaddress.IPv4Address(value))
        elif width == 128:
            number = int(ipaddress.IPv6Address(value))
        else:
            number = int(value, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << width:
        raise ConfigurationError(f"{name}: {value!r} is no value of {width} bits")
    return number
