"""IOMMU domains: what is mapped, what devices are told, and when."""

import pytest

from virtio.errors import ConfigurationError, TransportError
from virtio.memory.iommu import IommuDomain, Mapping
from virtio.memory.shared import SharedMemory

PAGE = 4096


class Cache:
    """A device that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Mapping | tuple[int, int]] = []
        self.refuses = False

    def update(self, mapping: Mapping) -> None:
        if self.refuses:
            raise TransportError("no")
        self.told.append(mapping)

    def invalidate(self, iova: int, size: int) -> None:
        self.told.append((iova, size))


def test_ranges_are_mapped_split_and_found() -> None:
    domain = IommuDomain()
    domain.map(0x10000, 4 * PAGE, 0x7000_0000, "r")
    domain.map(0x20000, PAGE, 0x7001_0000)
    for start, size in ((0x10000, 1), (0xF000, 2 * PAGE), (0x13FFF, 1), (0, 1 << 64)):
        with pytest.raises(ConfigurationError, match="mapped already"):
            domain.map(start, size, 0)
    domain.unmap(0x11000, 2 * PAGE)
    assert domain.mappings == [
        Mapping(0x10000, PAGE, 0x7000_0000, 1),
        Mapping(0x13000, PAGE, 0x7000_3000, 1),
        Mapping(0x20000, PAGE, 0x7001_0000, 3),
    ]
    assert domain.find(0x13FFF) == Mapping(0x13000, PAGE, 0x7000_3000, 1)
    assert domain.find(0x12FFF) is None
    domain.unmap(0, 1 << 64)
    assert domain.mappings == []
    with pytest.raises(ConfigurationError, match="nothing is mapped"):
        domain.unmap(0, PAGE)


def test_nonsense_is_refused() -> None:
    for options in ({"granule": 3}, {"granule": 0}, {"unmapped": "hope"}, {"offset": 100}, {"offset": -4096}):
        with pytest.raises(ConfigurationError):
            IommuDomain(**options)
    domain = IommuDomain()
    for iova, size in ((-1, 2), (0, 0), ((1 << 64) - 1, 2)):
        with pytest.raises(ConfigurationError):
            domain.map(iova, size, 0)
    with pytest.raises(ConfigurationError):
        domain.map(0, 1, 0, "x")  # type: ignore[arg-type]


def test_questions_are_answered_by_the_granule() -> None:
    domain, cache = IommuDomain(granule=PAGE), Cache()
    settled: list[bool] = []
    domain.map(0x10100, 4 * PAGE, 0x7000_0100, "rw")
    domain.attach(cache)
    for iova in (0x10100, 0x12345, 0x14080):
        domain.missed(iova, 1, settled.append)
    assert cache.told == [
        Mapping(0x10100, PAGE - 0x100, 0x7000_0100, 3),
        Mapping(0x12000, PAGE, 0x7000_2000, 3),
        Mapping(0x14000, 0x100, 0x7000_4000, 3),
    ]
    domain.missed(0x14100, 1, settled.append)
    assert settled == [True, True, True, False]
    cache.refuses = True
    domain.missed(0x12345, 2, settled.append)
    assert settled[-1] is False
    assert domain.misses == 5
    domain.unmap(0x12000, PAGE)
    assert cache.told[-1] == (0x12000, PAGE)


def test_an_eager_domain_tells_before_it_is_asked() -> None:
    domain, cache = IommuDomain(eager=True), Cache()
    domain.map(0x10000, PAGE, 0x7000_0000)
    domain.attach(cache)
    domain.map(0x20000, PAGE, 0x7001_0000)
    assert [entry[0] for entry in cache.told] == [0x10000, 0x20000]
    domain.detach(cache)
    domain.unmap(0x10000, PAGE)
    assert len(cache.told) == 2


def test_a_question_can_wait_for_its_mapping() -> None:
    domain, cache = IommuDomain(unmapped="wait"), Cache()
    settled: list[bool] = []
    domain.attach(cache)
    domain.missed(0x10010, 3, settled.append)
    domain.map(0x20000, PAGE, 0x7001_0000)
    assert settled == []
    domain.map(0x10000, PAGE, 0x7000_0000)
    assert settled == [True]
    assert cache.told == [Mapping(0x10000, PAGE, 0x7000_0000, 3)]


def test_a_domain_has_one_device() -> None:
    domain, cache = IommuDomain(), Cache()
    domain.attach(cache)
    domain.attach(cache)
    with pytest.raises(ConfigurationError, match="another device"):
        domain.attach(Cache())
    domain.detach(cache)
    domain.attach(Cache())


def test_shared_memory_is_mapped_as_a_whole() -> None:
    domain = IommuDomain()
    memory = SharedMemory(1 << 16, domain=domain)
    (region,) = memory.regions
    assert region.address == region.guest_address + domain.offset != region.user_address
    piece = memory.allocate(100)
    assert domain.find(piece.address) == Mapping(region.address, 1 << 16, region.user_address, 3)
    assert piece.user_address - piece.address == region.user_address - region.address
    piece.view[:] = bytes(range(100))
    assert memory.native.read(piece.address, 100) == bytes(range(100))
    memory.allocate(1 << 17)  # Another region.
    assert len(domain.mappings) == 2
    memory.close()
    assert domain.mappings == []


def test_shared_memory_can_be_mapped_piece_by_piece() -> None:
    domain = IommuDomain(allocations=True)
    memory = SharedMemory(1 << 16, domain=domain)
    assert domain.mappings == []
    pieces = [memory.allocate(100), memory.allocate(PAGE + 1)]
    assert [(m.iova, m.size) for m in domain.mappings] == [
        (pieces[0].address, PAGE),
        (pieces[1].address, 2 * PAGE),
    ]
    pieces[0].free()
    assert domain.find(pieces[0].address) is None
    memory.close()
    assert domain.mappings == []
