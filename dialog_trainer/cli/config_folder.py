"""The folder of --config-dir: how Hydra reads it, and what its files may not set.

The folder is the user's own, so that links are followed and `${oc.env:...}` is resolved. Yet nothing in it runs code that was
not typed, or writes where a run does not: of Hydra's own configuration its files may set what can be typed, no more.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from dialog_trainer.cli.conf import CONF
from dialog_trainer.cli.overrides import ONLY_PLUGINS, quote_text
from dialog_trainer.cli.plain_yaml import read_config_file
from dialog_trainer.errors import ConfigError

# Hydra's nodes that depend on the command line or on the search path, and decide nothing.
_DESCRIPTIVE = (
    "overrides",
    "searchpath",
    "runtime.choices",
    "runtime.config_sources",
    "runtime.cwd",
    "job.override_dirname",
)
_PLUGINS = ("launcher", "sweeper")
# The longest text, or largest tree, that references may repeat to.
_MAX_EXPANDED = 10**8


class OwnFolder(ConfigSource):
    """Hydra's view of the folder: plain YAML in regular files of bounded size, below the folder."""

    @staticmethod
    def scheme() -> str:
        return "own"

    def load_config(self, config_path: str) -> ConfigResult:
        path = self._file(config_path)
        tree, text = read_config_file(path)
        try:
            header, config = self._get_header_dict(text[:512]), OmegaConf.load(io.StringIO(text))
        except (ValueError, OmegaConfBaseException) as error:
            raise ConfigError([f"{path}: cannot be read: {error}"]) from None
        # Hydra would look for such a path anywhere, in conf/ too.
        outside = [text for text in _texts(tree.get("defaults")) if ".." in text or "//" in text]
        if outside:
            raise ConfigError([f"{path}: defaults: {outside[0]} is no path below the folder"])
        return ConfigResult(self.provider, self.full_path(), config, header)

    def is_group(self, config_path: str) -> bool:
        return (Path(self.path) / config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        return self._file(config_path).is_file()

    def available(self) -> bool:
        return self.is_group("")

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        found: list[str] = []
        for name in os.listdir(Path(self.path) / config_path):
            self._list_add_result(found, os.path.join(config_path, name), name, results_filter)
        return sorted(set(found))

    def _file(self, config_path: str) -> Path:
        return Path(self.path) / self._normalize_file_name(config_path)


Plugins.instance().register(OwnFolder)


def search_path(config_dir: str | None) -> list[str]:
    """The override that lets Hydra find the folder's files, after those of conf/."""
    return [f"hydra.searchpath=[{quote_text(f'own://{Path(config_dir).resolve()}')}]"] if config_dir else []


def find_hidden_files(config_dir: str | None) -> list[str]:
    """The note on files that are not read, because conf/ has files of the same names; none without them."""
    root = Path(config_dir or CONF)
    files = sorted(path.relative_to(root) for pattern in ("*.yaml", "*/*.yaml") for path in root.glob(pattern))
    hidden = [str(path) for path in files if (CONF / path).is_file()] if root.resolve() != CONF.resolve() else []
    return [f"--config-dir {config_dir}: not read, as there are built-in files of the same names: {', '.join(hidden)}"] * bool(hidden)  # fmt: skip


def check_hydra(node: Mapping[str, Any], default: Mapping[str, Any], typed: list[Override], config_dir: str) -> None:
    """Refuses what the files set of Hydra's own configuration: `node` is composed with them, `default` without anything.

    Raises `ConfigError`.
    """
    place = f"in the files of --config-dir {config_dir}"
    changed = [key for key in {**node, **default} if _decisive(node, key) != _decisive(default, key)]
    errors = [f"hydra.{key}, {place}: {ONLY_PLUGINS}" for key in changed if key not in _PLUGINS]
    for name in (name for name in _PLUGINS if name in changed):
        if not any(override.key_or_group.startswith((f"hydra/{name}", f"hydra.{name}")) for override in typed):
            errors.append(f"hydra.{name}, {place}: goes with hydra/{name}=<choice> on the command line")
        settings = node[name] if isinstance(node[name], dict) else {}
        if any(_names_code(value) for value in settings.values()):
            errors.append(f"hydra.{name}, {place}: a parameter with _target_ would run code; remove it")
    if errors:
        raise ConfigError(errors)


def check_references(config: Any) -> None:
    """Refuses a configuration whose references (`${...}`) could repeat each other without bound. Raises `ConfigError`."""
    texts = list(_texts(OmegaConf.to_container(config, resolve=False)))
    count, longest = sum(text.count("${") for text in texts), max(map(len, texts), default=0)
    # Each may repeat the others: most so in a chain of texts with three references each.
    if count > 3 and longest * 3 ** (count / 3) > _MAX_EXPANDED:
        raise ConfigError(
            [f"the configuration has {count:,} references (${{...}}), which may grow without bound; use fewer"]
        )


@contextmanager
def record_environment(found: dict[str, str]) -> Iterator[None]:
    """Within the block, each option whose value is resolved from an environment variable goes into `found`, with it."""

    def read_variable(*arguments: Any, _node_: Node) -> Any:
        if arguments and arguments[0] in os.environ:
            found[str(_node_._get_full_key(None))] = arguments[0]
        return oc.env(*arguments)

    OmegaConf.register_new_resolver("oc.env", read_variable, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _decisive(node: Mapping[str, Any], key: str) -> Any:
    """The node at `key` without what only describes."""
    value = node.get(key)
    inner = [name.partition(".")[2] for name in _DESCRIPTIVE if name.partition(".")[0] == key]
    if "" in inner or not isinstance(value, dict):
        return None if "" in inner else value
    return {name: item for name, item in value.items() if name not in inner}


def _names_code(value: Any) -> bool:
    """Whether Hydra would instantiate something inside."""
    if isinstance(value, dict):
        return "_target_" in value or any(map(_names_code, value.values()))
    return isinstance(value, list) and any(map(_names_code, value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
