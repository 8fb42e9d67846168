"""The machine, said beside the figures: they mean little without it."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """The machine that was measured on, as far as it is known."""

    processor: str
    """Model name."""
    processors: int
    """Processors that this process may use."""
    kernel: str
    """Release of the kernel."""
    python: str
    """Version of Python."""
    load: float
    """Runnable threads on average over the last minute."""

    @property
    def busy(self) -> bool:
        """Whether others keep it so busy that figures between two threads mean little."""
        return self.load > self.processors / 2


def this_machine() -> Machine:
    """Look at the machine."""
    return Machine(
        processor=_processor(),
        processors=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=platform.python_version(),
        load=os.getloadavg()[0],
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
