"""A card that counts its transactions, in a guest that knows nothing of it."""

from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from virtio.spec import entropy
from virtio.transport import vfio_user
from virtio.transport.pci.card import CardDevice
from virtio.transport.pci.hardware import CardFunction
from virtio.vm import Guest
from virtio.vm.boot import attachment
from virtio.vm.qemu import vfio_user_program

from ..conftest import Needs

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(120)]


class Sevens(CardDevice):
    spec = entropy

    def answer(self, queue_index: int, data: bytes, room: int) -> bytes:
        return b"\x07" * room


@pytest.fixture(scope="module", autouse=True)
def qemu(needs: Needs) -> None:
    needs("qemu")
    try:
        vfio_user_program()
    except ConfigurationError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("mask", ["", "RING_PACKED"], ids=["packed", "split"])
def test_what_a_guest_reads_is_on_the_record(tmp_path: Path, mask: str) -> None:
    device = Sevens(mask=mask)
    function = CardFunction(device)
    path = tmp_path / "card.sock"
    try:
        with (
            vfio_user.start(function, str(path)),
            Guest([attachment(device, path, "vfio-user")], timeout=100) as guest,
        ):
            before = function.traffic
            found = bytes.fromhex(guest.check("timeout 20 head -c 512 /dev/hwrng | xxd -p | tr -d '\\n'"))
            after = function.traffic
            assert found == b"\x07" * 512
            assert after.notifications > before.notifications
            assert after.interrupts > before.interrupts
            assert after.reads > before.reads
            # Every buffer is at least its data and its return.
            assert after.writes - before.writes >= 2 * (after.interrupts - before.interrupts)
    finally:
        device.close()
