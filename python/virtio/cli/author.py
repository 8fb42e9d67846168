"""Finds the device of somebody who wrote one: ``module:Class``, ``file.py:Class``, with arguments."""

import ast
import importlib
import importlib.util
import inspect
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from virtio.device.base import Device
from virtio.errors import ConfigurationError, Error

_log = logging.getLogger("virtio.cli")


def make(target: str, arguments: Sequence[str]) -> Device:
    """Import ``target`` and make the device; ``arguments`` are ``VALUE`` or ``NAME=VALUE``.

    What follows the colon is a class, a function that returns a device, or a device. Without a colon the
    module must have exactly one class of device.
    """
    place, colon, name = target.rpartition(":")
    module = _load(place if colon else target)
    found = _attribute(module, name) if colon else _only_device(module, target)
    if isinstance(found, Device):
        return found
    if not callable(found):
        raise ConfigurationError(f"{target} is a {type(found).__name__}, not a class of device")
    positional, named = _values(arguments)
    try:
        device = found(*positional, **named)
    except Error:
        raise
    except Exception as error:
        raise _explain(f"{target} cannot be made", error) from error
    if not isinstance(device, Device):
        raise ConfigurationError(f"{target} makes a {type(device).__name__}, not a virtio.Device")
    return device


def _load(place: str) -> ModuleType:
    path = Path(place)
    try:
        if place.endswith(".py"):
            if not path.is_file():
                raise ConfigurationError(f"there is no file {place}")
            sys.path.insert(0, str(path.parent.absolute()))
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None:
                raise ConfigurationError(f"{place} cannot be imported")
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
            return module
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(place)
    except Error:
        raise
    except Exception as error:
        raise _explain(f"{place} cannot be imported", error) from error


def _attribute(module: ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            names = ", ".join(cls.__name__ for cls in _devices(module)) or "no device"
            raise ConfigurationError(f"{module.__name__} has no {name!r}; it has {names}")
    return found


def _only_device(module: ModuleType, target: str) -> Any:
    classes = _devices(module)
    if len(classes) != 1:
        names = ", ".join(cls.__name__ for cls in classes) or "none"
        raise ConfigurationError(f"{target}: say which class of device, as {target}:NAME; there is {names}")
    return classes[0]


def _devices(module: ModuleType) -> list[type[Device]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Device) and value.__module__ == module.__name__
    ]


def _values(arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name.isidentifier():
            named[name] = _literal(value)
        else:
            positional.append(_literal(argument))
    return positional, named


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _explain(what: str, error: Exception) -> ConfigurationError:
    """One line for the user, with the place in the user's file; the whole story goes to the log at -vv."""
    _log.debug("%s", what, exc_info=error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return ConfigurationError(f"{what}: {type(error).__name__}: {error}{where}")
