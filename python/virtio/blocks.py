"""What is let go of at the end of a ``with`` block."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closing(ABC):
    """Closed at the end of its block."""

    @abstractmethod
    def close(self) -> object:
        """Let go of it."""

    def __enter__(self) -> Self:
        """Use it within a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()


class Stopping(ABC):
    """Stopped at the end of its block."""

    @abstractmethod
    def stop(self) -> None:
        """Finish what was begun."""

    def __enter__(self) -> Self:
        """Have it go on within a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()
