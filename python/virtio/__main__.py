"""``python -m virtio`` is the command ``virtio``."""

from virtio.cli import main

main()
