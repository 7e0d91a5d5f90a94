"""Where the chat template of a stranger runs: it reaches nothing but its own values, and builds no more than a budget.

Jinja's sandbox keeps a template from Python's internals, not from building 10 GB. Here each operation that makes a text or
a list longer is counted before it runs, and what cannot be counted, or gives another result in each process, is missing.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# A rendering may build so many times the characters that one of its texts may have.
TEXTS = 16
# The memory of an item of a list or dict, or of any value, in characters.
ITEM = 16
MAX_EXPONENT, MAX_NUMBER, MAX_INDENT = 8, 2**31, 16
CONCATENATE, TAKE, BUILD = "~", "[:]", "[]"  # operators, as filters that no template can name

_TEXT_FILTERS = {
    "capitalize", "e", "escape", "forceescape", "lower", "safe", "string", "striptags", "title", "trim", "truncate",
    "upper", "wordcount",
}  # fmt: skip
_OTHER_FILTERS = {
    "abs", "attr", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last", "length",
    "list", "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sort", "unique",
}  # fmt: skip
# What a template can call of Python's values; of other values what Jinja allows.
_METHODS: tuple[tuple[type | tuple[type, ...], set[str]], ...] = (
    (
        str,
        {
            "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal",
            "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition",
            "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split",
            "splitlines", "startswith", "strip", "swapcase", "title", "upper",
        },
    ),
    (dict, {"copy", "get", "items", "keys", "values"}),
    ((list, tuple), {"copy", "count", "index"}),
    ((bytes, int, float, complex, type), set()),
)  # fmt: skip


class _Budget:
    """What a rendering may still build, in characters; `longest`: at once."""

    def __init__(self, longest: int):
        self.longest, self.left = longest, TEXTS * longest

    def spend(self, characters: int) -> None:
        self.left -= characters
        if characters > self.longest or self.left < 0:
            raise SecurityError(f"it builds texts or lists of more than {self.longest:,} characters")


# Of the thread: a rendering has one of its own.
_budget: ContextVar[_Budget] = ContextVar("budget")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of transformers' chat templates, within bounds."""

    intercepted_binops = frozenset({"+", "-", "*", "**", "%", "//"})
    intercepted_unops = frozenset({"+", "-"})

    def __init__(self, extensions: Sequence[type[Extension]]):
        # Jinja computes constants while it compiles, before there is a budget, unless this is set.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=extensions, optimized=False, finalize=_write_out
        )
        for name in ("cycler", "joiner", "lipsum"):
            del self.globals[name]
        self.globals["raise_exception"] = _raise_exception
        for name, function in self.filters.items():
            if name in _TEXT_FILTERS or name in _OTHER_FILTERS:
                self.filters[name] = _count_filter(function, takes_text=name in _TEXT_FILTERS)
            else:
                self.filters[name] = functools.partial(_refuse_filter, name)
        self.filters |= {"join": _join_filter, "replace": _replace_filter, "tojson": _to_json}
        self.filters |= {CONCATENATE: _join_filter, TAKE: _take, BUILD: _count}

    def compile_source(self, source: str) -> jinja2.Template:
        """The template of a text. Raises what Jinja and Python raise, `SyntaxError` and `RecursionError` among others."""
        return self.from_string(_CountedOperators().visit(self.parse(source)))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        values = (left, right)
        times = next((one for one in values if isinstance(one, int)), None)
        repeated = next((one for one in values if isinstance(one, (str, list, tuple))), None)
        if operator in "+-":
            _budget.get().spend(sum(map(_size, values)))
        elif operator == "*" and times is not None and repeated is not None:
            _budget.get().spend(_size(repeated) * max(0, times))
        else:
            small = all(isinstance(one, (int, float)) and abs(one) < MAX_NUMBER for one in values)
            if not small or (operator == "**" and abs(right) > MAX_EXPONENT):
                raise SecurityError(f"{operator} is for small numbers alone")
        return super().call_binop(context, operator, left, right)

    def call_unop(self, context: Context, operator: str, arg: Any) -> Any:
        return _count(super().call_unop(context, operator, arg))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, methods in _METHODS:
            if isinstance(obj, kind):
                return attr in methods
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Jinja asks this before `is_safe_attribute`; `format` is no method here, because it pads."""

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            _budget.get().spend(len(owner))
            if function.__name__ in ("join", "replace"):
                function = functools.partial(_join if function.__name__ == "join" else _replace, owner)
        return _count(super().call(context, function, *args, **kwargs))


def render(template: jinja2.Template, longest: int, variables: dict[str, Any]) -> str:
    """What a template of `Sandbox` writes, all texts that it builds of at most `longest` characters."""
    _budget.set(_Budget(longest))
    return template.render(variables)


class _CountedOperators(NodeTransformer):
    """Makes filters of the operators that Jinja does not show to an environment, and counts the template's own text."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), CONCATENATE, [], [], None, None, lineno=node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        borders = [one or nodes.Const(None) for one in (node.arg.start, node.arg.stop, node.arg.step)]
        return nodes.Filter(node.node, TAKE, borders, [], None, None, lineno=node.lineno)

    def visit_List(self, node: nodes.List | nodes.Dict | nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(node, BUILD, [], [], None, None, lineno=node.lineno)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self.visit_List(node) if node.ctx == "load" else self.generic_visit(node)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno)


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int):
        return value.bit_length() // 32
    return ITEM * len(value) if isinstance(value, (dict, list, tuple)) else 0


def _count(value: Any) -> Any:
    _budget.get().spend(_size(value) + ITEM)
    return value


def _check_plain(value: Any) -> None:
    """Refuses what is not made of plain values: others are written with their place in memory."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        _budget.get().spend(_size(one) + ITEM)
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple)):
            waiting += one
        elif not isinstance(one, (str, int, float, jinja2.Undefined, type(None))):
            raise SecurityError(f"it writes a {type(one).__name__}, which is no text")


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    _check_plain(value)
    return str(value)


@jinja2.pass_context  # so that nothing is written while Jinja compiles
def _write_out(context: Context, value: Any) -> str:
    text = _to_text(value)
    _budget.get().spend(len(text))
    return text


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(_to_text(message))


def _refuse_filter(name: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise SecurityError(f"the filter {name} is not allowed")


def _count_filter(function: Callable[..., Any], takes_text: bool) -> Callable[..., Any]:
    place = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        value = _to_text(args[place]) if takes_text else args[place]
        return _count(function(*args[:place], _count(value), *args[place + 1 :], **kwargs))

    return run


def _join(separator: str, items: Iterable[Any]) -> str:
    pieces = list(items)
    _budget.get().spend(sum(map(_size, pieces)) + (len(separator) + ITEM) * len(pieces))
    return separator.join(pieces)


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    found = text.count(old) if count < 0 else min(count, text.count(old))
    _budget.get().spend(len(text) + found * len(new))
    return text.replace(old, new, count)


@jinja2.pass_context
def _join_filter(context: Context, value: Any, d: Any = "", attribute: Any = None) -> str:
    items = value
    if attribute is not None:
        items = context.environment.call_filter("map", value, kwargs={"attribute": attribute}, context=context)
    return _join(_to_text(d), map(_to_text, items))


def _replace_filter(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    return _replace(_to_text(value), _to_text(old), _to_text(new), -1 if count is None else count)


def _take(value: Any, start: Any, stop: Any, step: Any) -> Any:
    return _count(value[start:stop:step])


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """`tojson` of transformers."""
    _check_plain(value)
    widths = [indent if isinstance(indent, int) else len(indent or ""), *map(len, separators or ())]
    if max(widths) > MAX_INDENT:
        raise SecurityError(f"tojson indents or separates by more than {MAX_INDENT} characters")
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    _budget.get().spend(len(text))
    return text
