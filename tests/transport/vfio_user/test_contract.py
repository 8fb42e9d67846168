"""The contract of transports, over vfio-user."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from tests.transport.contract import Served
from tests.transport.pci.test_contract import PciContract

from virtio.transport.interface import DriverEnd


class VfioUserContract(PciContract):
    address = "vfio-user:{tmp}/contract.sock"
    options: Mapping[str, Any] = MappingProxyType({})

    @pytest.fixture
    def ends(self, tmp_path: Path) -> Iterator[Served]:
        with contextlib.ExitStack() as stack:
            yield _Chosen(self.address.format(tmp=tmp_path), stack, self.options)


class _Chosen(Served):
    def __init__(self, address: str, stack: contextlib.ExitStack, options: Mapping[str, Any]) -> None:
        super().__init__(address, stack)
        self._options = options

    def connect(self, **options: Any) -> DriverEnd:
        return super().connect(**self._options, **options)


class TestSharedMemory(VfioUserContract):
    pass


class TestIntx(VfioUserContract):
    options = MappingProxyType({"msix": False})


class TestFarMemory(VfioUserContract):
    """Without descriptors: everything is relayed, by messages."""

    options = MappingProxyType({"share": False})


@pytest.mark.slow
class TestFarMemoryIntx(VfioUserContract):
    options = MappingProxyType({"share": False, "msix": False})
