"""Requests to a block device from an event loop."""

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from typing_extensions import Buffer

from virtio._native import BlockRequests
from virtio.driver.block_requests import failure
from virtio.errors import ConfigurationError, Error

if TYPE_CHECKING:
    from virtio.driver.block import BlockDriver


class _Wish(NamedTuple):
    """A request that is wanted, or out."""

    kind: int
    sector: int
    buffer: Buffer | None
    address: int
    size: int
    future: "asyncio.Future[int]"


class Watcher:
    """Waits for one queue in one event loop: on the descriptor by which the device notifies."""

    def __init__(self, driver: "BlockDriver", requests: BlockRequests) -> None:
        """Watch with the running loop."""
        self.requests = requests
        self._driver = driver
        self._loop = asyncio.get_running_loop()
        self._out: dict[int, _Wish] = {}
        self._wanted: deque[_Wish] = deque()
        self._closed = False
        call, watch = requests.queue.descriptors
        self._descriptors = [fd for fd in (call, watch) if fd is not None]
        for fd in self._descriptors:
            self._loop.add_reader(fd, self._ready)

    def serves(self, requests: BlockRequests) -> bool:
        """Whether it watches this queue with the running loop. A loop that has ended is forgotten."""
        if requests is not self.requests or self._closed:
            return False
        if self._loop is asyncio.get_running_loop():
            return True
        if self._loop.is_closed():
            self._closed = True
            return False
        raise ConfigurationError("another event loop is using this disk: give each one a driver of its own")

    def transfer(self, kind: int, sector: int, buffer: Buffer | None) -> "asyncio.Future[int]":
        """Make a request; its result is the number of bytes."""
        address, size = 0, 0
        if buffer is not None:
            found, size = self.requests.shared(buffer), memoryview(buffer).nbytes
            if found is None:
                raise ConfigurationError("reading needs a buffer in shared memory: allocate() gives one")
            if size > self.requests.longest:
                raise ConfigurationError(f"{size} bytes; a request can have {self.requests.longest}")
            address = found
        wish = _Wish(kind, sector, buffer, address, size, self._loop.create_future())
        if self._wanted or not self._submit(wish):
            self._wanted.append(wish)
        return wish.future

    def _submit(self, wish: _Wish) -> bool:
        token = self.requests.submit(wish.kind, wish.sector, wish.address, wish.size, watched=True)
        if token is None:
            return False
        # A cancelled request stays here, with its buffer, until the device has answered.
        self._out[token] = wish
        return True

    def _ready(self) -> None:
        try:
            while found := self.requests.queue.collect():
                for token, _, status in found:
                    self._finish(self._out.pop(token), status)
            while self._wanted:
                if not self._wanted[0].future.done() and not self._submit(self._wanted[0]):
                    break
                self._wanted.popleft()
        except Error as error:
            self._fail(error)

    def _finish(self, wish: _Wish, status: int) -> None:
        if wish.future.done():
            return
        if status:
            wish.future.set_exception(failure(wish.kind, wish.sector, status))
        else:
            wish.future.set_result(wish.size)

    def _fail(self, error: Exception) -> None:
        self._stop()
        for wish in [*self._out.values(), *self._wanted]:
            if not wish.future.done():
                wish.future.set_exception(error)
        self._wanted.clear()

    def _stop(self) -> None:
        if not self._closed:
            self._closed = True
            for fd in self._descriptors:
                self._loop.remove_reader(fd)

    def close(self) -> None:
        """Stop watching; who waits gets an error. From any thread."""
        if self._closed or self._loop.is_closed():
            return
        error = ConfigurationError("the driver is closed")
        with contextlib.suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                self._fail(error)
                return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._fail, error)
