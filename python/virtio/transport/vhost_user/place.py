"""What follows ``vhost-user:`` in an address."""

from urllib.parse import parse_qsl

from virtio.errors import ConfigurationError


def parse_place(spec: str) -> tuple[str, bool]:
    """Return where the socket is, and whether notifications are to be in-band."""
    place, _, options = spec.partition("?")
    in_band = False
    for option in parse_qsl(options, keep_blank_values=True):
        if option != ("notifications", "in-band"):
            raise ConfigurationError(f"vhost-user has no option {'='.join(option)}")
        in_band = True
    return place, in_band
