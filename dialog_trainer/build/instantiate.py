"""Builds what a `_target_` names: a function with the arguments of the configuration, checked against its signature."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dialog_trainer.config.frozen import thaw
from dialog_trainer.errors import ConfigError


def instantiate(target: str, arguments: Mapping[str, Any], group: str, given: int = 1, **runtime: Any) -> partial[Any]:
    """The function that `target` names (validation has checked that it may run), with `arguments` and with those of
    `runtime` that it takes. `given` is the number of positional arguments that it will be called with.

    Raises `ConfigError` if it cannot be imported or called, or takes another argument.
    """
    function = import_target(target, group)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ConfigError([f"{group}._target_={target}: cannot be called"]) from None
    asked = signature.parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in asked.values())
    unknown = [key for key in arguments if (key not in asked and not takes_any) or key in runtime]
    if unknown:
        raise ConfigError([f"{group}.{key}={arguments[key]}: {target} takes no {key}" for key in unknown])
    built = partial(function, **thaw(arguments), **{key: value for key, value in runtime.items() if key in asked})
    try:
        signature.bind(*[None] * given, **built.keywords)
    except TypeError as error:
        raise ConfigError([f"{group}: {target}: {error}"]) from None
    return built


def import_target(target: str, group: str) -> Callable[..., Any]:
    """The class or function of that dotted name. Raises `ConfigError` if there is none."""
    module, _, attribute = target.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError([f"{group}._target_={target}: cannot be imported: {error}"]) from None
    return found
