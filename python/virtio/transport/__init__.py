"""Transports: they join a device, or a driver, to a wire."""

import contextlib
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from virtio.driver.registry import driver_class
from virtio.driver.wire import DriverEnd
from virtio.errors import ConfigurationError
from virtio.transport.address import opener, parse, starter
from virtio.transport.interface import DeviceEnd, Server

if TYPE_CHECKING:
    from virtio.spec.model import DeviceType

__all__ = ["Server", "connect", "open_driver_end", "serve", "start"]


def open_driver_end(address: str, **options: Any) -> DriverEnd:
    """Connect to the device at ``address``, without a driver for it.

    ``options`` are the transport's; all have ``timeout``, in seconds.
    """
    scheme, rest = parse(address)
    open_end = opener(scheme)
    if unknown := _unknown(options, open_end):
        raise ConfigurationError(f"{scheme}: has no option {unknown!r}")
    _check_timeout(**options)
    return open_end(rest, **options)


def connect(address: str, type: "str | int | DeviceType | ModuleType | None" = None, **options: Any) -> Any:  # noqa: A002
    """Connect to the device at ``address`` and return a driver that is ready to use it.

    ``type`` says what the device is (``"block"``); it may be left out where the transport tells. ``options``
    that the transport does not know go to the driver.

    ::

        with virtio.connect("vhost-user:/run/disk.sock", "block") as disk:
            ...
    """
    scheme, rest = parse(address)
    open_end = opener(scheme)
    known = inspect.signature(open_end).parameters
    driver_options = {name: value for name, value in options.items() if name not in known}
    wanted = None if type is None else driver_class(type)
    _check_timeout(**options)
    if wanted is not None:
        _refuse_unknown(driver_options, wanted, scheme)
    end = open_end(rest, **{name: value for name, value in options.items() if name in known})
    try:
        if wanted is None:
            if end.device_id is None:
                raise ConfigurationError(
                    f'{address} does not tell what it is: write connect("{address}", "block"), say'
                )
            wanted = driver_class(end.device_id)
            _refuse_unknown(driver_options, wanted, scheme)
        return wanted(end, **driver_options)
    except BaseException:
        end.close()
        raise


def _check_timeout(timeout: float = 1.0, **_: object) -> None:
    if not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ConfigurationError(f"a timeout of {timeout:g} seconds")


def _unknown(options: dict[str, Any], function: Callable[..., object]) -> str | None:
    """Return the first of the options that a function does not have."""
    # What comes first is no option: where the device is, or its end.
    _, *parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return min(set(options) - {parameter.name for parameter in parameters}, default=None)


def _refuse_unknown(options: dict[str, Any], driver: Callable[..., object], scheme: str) -> None:
    if unknown := _unknown(options, driver):
        raise ConfigurationError(f"neither {scheme}: nor this driver has an option {unknown!r}")


def start(device: DeviceEnd, address: str) -> Server:
    """Serve ``device`` at ``address`` in the background, until the returned server is stopped.

    ::

        with virtio.start(device, "vhost-user:/run/disk.sock") as server:
            ...
    """
    scheme, rest = parse(address)
    return starter(scheme)(device, rest)


def serve(device: DeviceEnd, address: str) -> None:
    """Serve ``device`` at ``address`` until SIGINT or SIGTERM; then finish what was begun and close it.

    A second signal does what it does otherwise. Called from another thread than the main one, it returns only
    when the address has nothing more to serve.
    """
    serving: Server | None = None
    asked = False

    def stop() -> None:
        nonlocal asked
        asked = True
        if serving is not None:
            serving.shut_down()

    try:
        with _on_signals(stop), start(device, address) as serving:
            if asked:  # before there was anything to stop
                serving.shut_down()
            serving.wait()
    finally:
        device.close()


@contextlib.contextmanager
def _on_signals(call: Callable[[], object]) -> Iterator[None]:
    """Call for the first SIGINT or SIGTERM, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def handle(_number: int, _frame: FrameType | None) -> None:
        restore()
        call()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
