"""User Mode Linux: the command line of a guest that is an ordinary process."""

from collections.abc import Sequence
from pathlib import Path

from virtio.errors import ConfigurationError
from virtio.vm.attachment import Attachment
from virtio.vm.kernel import Kernel

#: Drivers that Debian's UML has, built in or as modules, need nothing else.
BASE_MODULES: tuple[str, ...] = ()


def command(
    kernel: Kernel,
    initramfs: Path,
    attachments: Sequence[Attachment],
    *,
    memory: int,
    cpus: int,
    scratch: Path,
) -> list[str]:
    """Return the command line; ``memory`` is in MiB."""
    if cpus != 1:
        raise ConfigurationError("User Mode Linux has one CPU; use QEMU for more")
    if any(attachment.transport != "vhost-user" for attachment in attachments):
        raise ConfigurationError("User Mode Linux attaches vhost-user only; use QEMU for vfio-user")
    return [
        str(kernel.image),
        f"mem={memory}M",
        f"initrd={initramfs}",
        # Its management console's socket would stay behind in the home directory when it is killed.
        f"uml_dir={scratch}/",
        "umid=guest",
        # Only the first console, on our pipes; no terminal emulators for the others.
        "con=null",
        "con0=fd:0,fd:1",
        "ssl=null",
        "quiet",
        "loglevel=1",
        *(
            f"virtio_uml.device={attachment.socket}:{attachment.device_id}:{instance}"
            for instance, attachment in enumerate(attachments)
        ),
    ]
