"""The contract of transports, on PCI functions."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.transport.contract import BASIC, Contract, Served

from virtio.errors import ConfigurationError
from virtio.spec import core
from virtio.transport import pci
from virtio.transport.interface import DriverEnd


class PciContract(Contract):
    """What PCI does otherwise."""

    address = "pci:contract"

    @pytest.mark.parametrize("layout", [0, core.F.RING_PACKED], ids=["split", "packed"])
    def test_a_stopped_queue_goes_on_from_its_base(self, ends: Served, layout: int) -> None:
        """It does not: registers have no word for it, which is said before any harm is done."""
        end = ends.connect()
        with self.live(end, BASIC | layout, [0]) as (ring,):
            ring.mirror(b"before")
            with pytest.raises(ConfigurationError):
                end.stop_queue(0)
            ring.mirror(b"after")


class TestVectorForEach(PciContract):
    pass


class InterruptsContract(PciContract):
    """With a layout, or a driver, of another kind."""

    layout = pci.Layout()
    msix = True

    @pytest.fixture
    def ends(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
        with contextlib.ExitStack() as stack:
            with monkeypatch.context() as patch:
                patch.setattr(
                    "virtio.start", lambda device, _: pci.start(device, "contract", layout=self.layout)
                )
                yield_ = _Chosen("pci:contract", stack, msix=self.msix)
            yield yield_


class _Chosen(Served):
    def __init__(self, address: str, stack: contextlib.ExitStack, *, msix: bool) -> None:
        super().__init__(address, stack)
        self._msix = msix

    def connect(self, **options: Any) -> DriverEnd:
        return super().connect(msix=self._msix, **options)


class TestIntx(InterruptsContract):
    msix = False


class TestNoMsix(InterruptsContract):
    layout = pci.Layout(vectors=0)


class TestSharedVector(InterruptsContract):
    layout = pci.Layout(vectors=2)


class TestOneVector(InterruptsContract):
    layout = pci.Layout(vectors=1)
