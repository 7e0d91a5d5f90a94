"""build.instantiate."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
import numpy as np
import torch
from transformers import PreTrainedModel
from dialog_trainer.errors import ConfigError



def instantiate(node: dict[str, Any], group: str, given: int = 1, **runtime: Any) -> Callable:
    """The function that `_target_` names (it was checked), with the other keys of `node` and what it asks of `runtime`.

    `given` is the number of arguments that it is called with.
    """
    name = node["_target_"]
    keys = {key: value for key, value in node.items() if key != "_target_"}
    module, _, attribute = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError([f"_target_={name}: cannot be imported: {error}"]) from None
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ConfigError([f"{group}._target_={name}: cannot be called"]) from None
    asked = signature.parameters
    unknown = [key for key in keys if key not in asked or key in runtime]
    if unknown:
        raise ConfigError([f"{group}.{key}={keys[key]}: {name} takes no {key}" for key in unknown])
    built = partial(function, **keys, **{key: value for key, value in runtime.items() if key in asked})
    try:
        signature.bind(*[None] * given, **built.keywords)
    except TypeError as error:
        raise ConfigError([f"{group}: {name}: {error}"]) from None
    return built
