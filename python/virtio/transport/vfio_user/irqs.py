"""DEVICE_GET_IRQ_INFO and DEVICE_SET_IRQS."""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from virtio.transport.pci.interface import InterruptIndex
from virtio.transport.unix.framing import close_all
from virtio.transport.vfio_user.function import Function
from virtio.transport.vfio_user.messages import IRQ_ACTION, IRQ_DATA, IrqFlag, IrqSet
from virtio.transport.vfio_user.payloads import IrqInfo, IrqSetting
from virtio.transport.vfio_user.refusal import invalid

_INTX_FLAGS = IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED
_Key = tuple[int, int]


class Irqs:
    """The interrupts of a function, and the eventfds that a client gave for them."""

    def __init__(self, function: Function) -> None:
        """Begin with none."""
        self._function = function
        self._targets: dict[IrqSet, dict[_Key, int]] = {
            IrqSet.ACTION_TRIGGER: {},
            IrqSet.ACTION_MASK: {},
            IrqSet.ACTION_UNMASK: {},
        }

    def info(self, payload: bytes) -> bytes:
        """Answer DEVICE_GET_IRQ_INFO."""
        asked = IrqInfo.unpack(payload)
        if asked.argsz < IrqInfo.FORM.size:
            raise invalid(f"argsz is {asked.argsz}")
        if asked.index >= len(self._function.interrupts):
            raise invalid(f"there are no interrupts {asked.index}")
        flags = _INTX_FLAGS if asked.index == InterruptIndex.INTX else IrqFlag.EVENTFD
        count = self._function.interrupts[asked.index]
        return IrqInfo(IrqInfo.FORM.size, flags, asked.index, count).pack()

    def set(self, payload: bytes, fds: list[int]) -> None:
        """Do what DEVICE_SET_IRQS says; descriptors that are kept are taken out of ``fds``."""
        wanted = IrqSetting.unpack(payload)
        extra = payload[IrqSetting.FORM.size :]
        kind = IrqSet(wanted.flags & IRQ_DATA)
        action = IrqSet(wanted.flags & IRQ_ACTION)
        if wanted.flags & ~int(IRQ_DATA | IRQ_ACTION) or kind.bit_count() != 1 or action.bit_count() != 1:
            raise invalid(f"flags are {wanted.flags:#x}")
        if wanted.index >= len(self._function.interrupts):
            raise invalid(f"there are no interrupts {wanted.index}")
        if wanted.start + wanted.count > self._function.interrupts[wanted.index]:
            raise invalid(f"interrupts {wanted.start} to {wanted.start + wanted.count - 1} are not all there")
        if len(extra) != (wanted.count if kind is IrqSet.DATA_BOOL else 0):
            raise invalid(f"{len(extra)} bytes of data for {wanted.count} interrupts")
        if fds and (kind is not IrqSet.DATA_EVENTFD or len(fds) != wanted.count):
            raise invalid(f"{len(fds)} descriptors for {wanted.count} interrupts")
        if kind is IrqSet.DATA_EVENTFD:
            self._assign(action, wanted, fds)
        elif kind is IrqSet.DATA_NONE and not wanted.count:
            if wanted.start or action is not IrqSet.ACTION_TRIGGER:
                raise invalid(f"no interrupts from {wanted.start} on")
            self.switch_off(wanted.index)
        else:
            chosen = extra if kind is IrqSet.DATA_BOOL else bytes([1]) * wanted.count
            self._act(action, wanted.index, [wanted.start + at for at, on in enumerate(chosen) if on])

    def switch_off(self, index: int) -> None:
        """Signal nothing of this kind any more."""
        self._function.set_interrupts(index, 0, [None] * self._function.interrupts[index])
        for targets in self._targets.values():
            _forget(targets, [key for key in targets if key[0] == index])

    def close(self) -> None:
        """Signal nothing any more, and close all descriptors."""
        for index, count in enumerate(self._function.interrupts):
            if count:
                self.switch_off(index)

    def _assign(self, action: IrqSet, wanted: IrqSetting, fds: list[int]) -> None:
        if any(not _is_eventfd(fd) for fd in fds):
            raise invalid("a descriptor is no eventfd")
        targets = self._targets[action]
        keys = [(wanted.index, wanted.start + at) for at in range(wanted.count)]
        if action is IrqSet.ACTION_TRIGGER:
            # None at all: these have none any more.
            self._function.set_interrupts(wanted.index, wanted.start, list(fds) or [None] * wanted.count)
        _forget(targets, [key for key in keys if key in targets])
        targets.update(zip(keys, fds, strict=False))
        fds.clear()

    def _act(self, action: IrqSet, index: int, vectors: list[int]) -> None:
        """Trigger, mask or unmask."""
        do: Callable[[int, int, int], object] | None = None
        if action is IrqSet.ACTION_MASK:
            do = self._function.mask
        elif action is IrqSet.ACTION_UNMASK:
            do = self._function.unmask
        for vector in vectors:
            if do is not None:
                do(index, vector, 1)
            fd = self._targets[action].get((index, vector))
            if fd is not None:
                with contextlib.suppress(OSError):  # a full counter is as good as a signal
                    os.eventfd_write(fd, 1)


def _forget(targets: dict[_Key, int], keys: Iterable[_Key]) -> None:
    close_all(targets.pop(key) for key in keys)


def _is_eventfd(fd: int) -> bool:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:[eventfd]"
    except OSError:
        return False
