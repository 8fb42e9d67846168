"""Answers a device's questions for translations, on a thread of its own.

Whoever reads what a device asks must not wait, and to answer means to wait: until whoever changes the domain
at the moment is done, and until the device has taken note.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

from virtio.errors import Error
from virtio.memory.iommu import IommuDomain

_log = logging.getLogger("virtio.transport")


class Question(NamedTuple):
    """A miss: ``settle`` is called with whether the translation was told."""

    iova: int
    access: int
    settle: Callable[[bool], object]


class Answering:
    """A domain and the thread that answers from it."""

    def __init__(self, domain: IommuDomain, name: str) -> None:
        """Begin with nothing asked; the thread starts with the first question."""
        self.domain = domain
        self._name = name
        self._questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()

    def ask(self, question: Question) -> None:
        """Take a question, from any thread, without waiting."""
        with self._lock:
            if self._closed:
                return
            if self._thread is None:
                name = f"IOMMU of {self._name}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
        self._questions.put(question)

    def close(self) -> None:
        """Answer nothing more."""
        with self._lock:
            self._closed = True
        if self._thread is not None:
            self._questions.put(None)
            if self._thread is not threading.current_thread():
                self._thread.join()

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            if self._closed:
                continue
            try:
                self.domain.missed(*question)
            except Error as error:
                _log.warning("%s: no answer for address %#x: %s", self._name, question.iova, error)
