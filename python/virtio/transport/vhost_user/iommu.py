"""The front end's IOMMU: a domain, and the back end as its device."""

from collections.abc import Callable

from virtio.errors import FeatureNegotiationError
from virtio.memory.iommu import IommuDomain, Mapping
from virtio.spec.core import F
from virtio.transport.answering import Answering, Question
from virtio.transport.vhost_user.client import Client
from virtio.transport.vhost_user.exchange import Missed
from virtio.transport.vhost_user.payloads import Iotlb
from virtio.transport.vhost_user.translations import ACCESS_FAIL, INVALIDATE, UPDATE


class FrontEndIommu:
    """Tells a back end where I/O virtual addresses lead: a :class:`~virtio.memory.iommu.Translator`."""

    def __init__(self, domain: IommuDomain, name: str, tell: Callable[[Iotlb], object]) -> None:
        """``tell`` sends an entry to the back end and waits until it is done."""
        self._domain = domain
        self._tell = tell
        self._answering = Answering(domain, name)

    def check(self, offered: int) -> None:
        """Raise if a back end has no translations."""
        if not offered & F.ACCESS_PLATFORM:
            raise FeatureNegotiationError(
                "the back end does not offer VIRTIO_F_ACCESS_PLATFORM, so there can be no IOMMU",
                "6.1",
                missing=F.ACCESS_PLATFORM,
            )

    def attach(self) -> None:
        """The back end knows the memory, and nothing of the domain."""
        self._domain.attach(self)

    def detach(self) -> None:
        """The back end was reset."""
        self._domain.detach(self)

    def close(self) -> None:
        """The back end is gone."""
        self._domain.detach(self)
        self._answering.close()

    def update(self, mapping: Mapping) -> None:
        """Tell a translation."""
        self._tell(Iotlb(mapping.iova, mapping.size, mapping.user_address, mapping.access, UPDATE))

    def invalidate(self, iova: int, size: int) -> None:
        """Tell that a range is gone."""
        self._tell(Iotlb(iova, size, 0, 0, INVALIDATE))

    def missed(self, news: Missed, client: Client) -> None:
        """Take what the back end asks, on the connection's thread."""
        entry, ticket = news.entry, news.ticket
        if entry.type == ACCESS_FAIL:
            self._domain.failed(entry.iova, entry.permission)
            return

        def settle(done: bool) -> None:
            if ticket is not None:
                client.settle(ticket, done)

        self._answering.ask(Question(entry.iova, entry.permission, settle))
