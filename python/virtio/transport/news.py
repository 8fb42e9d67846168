"""Tells a driver what happened, on a thread of its own, so that its callbacks may call the transport."""

import logging
import queue
import threading
from collections.abc import Callable

from virtio.errors import Error

_log = logging.getLogger("virtio.transport")

ConfigCallback = Callable[[], object]
FailureCallback = Callable[[Error], object]


class NewsDesk:
    """Callbacks of a driver, and the thread that calls them. It starts with the first callback."""

    def __init__(self, name: str) -> None:
        """``name`` is for the thread."""
        self._name = name
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._config: ConfigCallback | None = None
        self._failure: FailureCallback | None = None
        self._failed: Error | None = None
        self._config_waits = False
        self._closed = False

    def on_config_change(self, callback: ConfigCallback | None) -> None:
        """Call this after a configuration change notification."""
        with self._lock:
            self._config = callback
            self._begin(callback)

    def on_failure(self, callback: FailureCallback | None) -> None:
        """Call this once, when the device is lost or needs a reset; at once if it is already."""
        with self._lock:
            self._failure = callback
            self._begin(callback)
            if callback is not None and self._failed is not None:
                self._queue.put(self._tell_failure)

    def config_changed(self) -> None:
        """There was a notification. Those that wait to be told are one."""
        with self._lock:
            if self._config is not None and not self._config_waits:
                self._config_waits = True
                self._queue.put(self._tell_config)

    def failed(self, error: Error) -> None:
        """The device is lost or needs a reset. Told once, until :meth:`forget`."""
        with self._lock:
            if self._failed is None:
                self._failed = error
                if self._failure is not None:
                    self._queue.put(self._tell_failure)

    def forget(self) -> None:
        """The device was reset: it may fail again."""
        with self._lock:
            self._failed = None

    def close(self) -> None:
        """Call nobody any more, and wait for a callback that runs, unless it is this one."""
        with self._lock:
            self._config = self._failure = None
            if self._closed:
                return
            self._closed = True
            thread = self._thread
            self._queue.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _begin(self, callback: object) -> None:
        if callback is not None and self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name=f"news of {self._name}", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (tell := self._queue.get()) is not None:
            try:
                tell()
            except Exception:
                _log.exception("%s: a callback failed", self._name)

    def _tell_config(self) -> None:
        with self._lock:
            self._config_waits = False
            callback = self._config
        if callback is not None:
            callback()

    def _tell_failure(self) -> None:
        with self._lock:
            callback, error = self._failure, self._failed
        if callback is not None and error is not None:
            callback(error)
