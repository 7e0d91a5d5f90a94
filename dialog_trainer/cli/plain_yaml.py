"""YAML that somebody else may have written: plain values only, bounded in size, depth, nodes and digits."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml

from dialog_trainer.errors import ConfigError

MAX_BYTES = 2**18
MAX_DEPTH = 30
# With what aliases repeat.
MAX_NODES = 10_000
MAX_DIGITS = 400
_PREFIX = "tag:yaml.org,2002:"
_RESOLVED = {f"{_PREFIX}{name}" for name in ("int", "float", "bool", "null", "merge")}


class PlainLoader(yaml.SafeLoader):
    """Lists, dicts, texts, numbers, booleans and null, without tags; a date is a text. Aliases only where `aliases`."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as PyYAML declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _RESOLVED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str, aliases: bool):
        super().__init__(text)
        self._aliases, self._depth, self._nodes = aliases, 0, 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) and not self._aliases:
            raise self._error("an alias (*name) is refused here")
        if getattr(event, "tag", None) is not None:
            raise self._error(f"the tag {event.tag.replace(_PREFIX, '!!')} is refused here")
        self._depth, self._nodes = self._depth + 1, self._nodes + 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"is nested deeper than {MAX_DEPTH} levels")
        if self._nodes > MAX_NODES:
            raise self._error(f"holds more than {MAX_NODES:,} values")
        node = cast(yaml.Node, super().compose_node(parent, index))
        self._depth -= 1
        if node.tag in (f"{_PREFIX}int", f"{_PREFIX}float") and len(node.value) > MAX_DIGITS:
            raise self._error(f"a number has more than {MAX_DIGITS} digits", node)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise self._error(f"the key {key.value} stands twice in its dict", key)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def _error(self, problem: str, node: yaml.Node | None = None) -> yaml.YAMLError:
        mark = node.start_mark if node else self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def load_plain(content: bytes, *, aliases: bool = False) -> Any:
    """The value of a document. Raises `ValueError` with the place and the reason for anything that is not plain YAML."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES:,} bytes")
    try:
        loader = PlainLoader(content.decode("utf-8"), aliases)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node, {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"line {mark.line + 1}: {error.problem}" if mark else str(error.problem)) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(str(error).strip().partition("\n")[0]) from None
    except RecursionError:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels") from None


def read_config_file(path: Path) -> tuple[dict[str, Any], str]:
    """The dict in a config file, and its text. Aliases are allowed. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        tree = load_plain(content, aliases=True)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except ValueError as error:
        raise ConfigError([f"{path}: cannot be read as plain YAML: {error}"]) from None
    if not isinstance(tree, dict | None):
        raise ConfigError([f"{path}: holds no dict of options"])
    return tree or {}, content.decode("utf-8")


def _count_nodes(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """How many values a node stands for once each alias is replaced by what it names."""
    if node not in counts:
        counts[node] = MAX_NODES  # for an alias inside what it names
        inner = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        scalar = isinstance(node, yaml.ScalarNode)
        counts[node] = 1 if scalar else 1 + sum(_count_nodes(part, counts) for part in inner)
    if counts[node] > MAX_NODES:
        raise ValueError(f"holds more than {MAX_NODES:,} values, counting what its aliases repeat")
    return counts[node]
