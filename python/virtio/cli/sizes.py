"""Sizes as people write them."""

from virtio.errors import ConfigurationError

_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}


def parse_size(text: str) -> int:
    """Read a number of bytes, or of K, M, G or T (of 1024)."""
    unit = text[-1:].upper()
    number = text[:-1] if unit in _UNITS else text
    if not number.isdecimal():
        raise ConfigurationError(f"a size is a number of bytes, or of K, M, G or T: not {text!r}")
    return int(number) << _UNITS.get(unit, 0)
