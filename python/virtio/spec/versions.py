"""The versions of the standard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Version:
    """A version of the standard; ``legacy`` is what was there before 1.0."""

    major: int
    minor: int

    def __str__(self) -> str:
        """``1.2``, or ``legacy``."""
        return "legacy" if self.major == 0 else f"{self.major}.{self.minor}"


LEGACY = Version(0, 9)
V1_0 = Version(1, 0)
V1_1 = Version(1, 1)
V1_2 = Version(1, 2)
V1_3 = Version(1, 3)
V1_4 = Version(1, 4)
VERSIONS = (LEGACY, V1_0, V1_1, V1_2, V1_3, V1_4)
