"""Renders a chat template around placeholders: which characters it writes before, between and behind the turns.

A template is a program of a stranger. It sees placeholders instead of the texts, so that a text can change neither what it
does nor where a turn ends, and dialogues with the same roles share a layout.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols

from dialog_trainer.data.template_sandbox import Sandbox, render
from dialog_trainer.data.text_encoder import run_in_time
from dialog_trainer.errors import ModelError

# Python takes 2 KB of memory to compile a character. The longest known templates have 30,000.
MAX_TEMPLATE_CHARACTERS = 2**17
MAX_LAYOUT_CHARACTERS = 2**22
MAX_DATE_CHARACTERS = 1_000
_GIVEN_UP = ("the chat template", "its loops do not end")
# Signs of the private use area around the number of a turn, and around what `{% generation %}` marks.
TURN_OPEN, TURN_CLOSE, MARK_OPEN, MARK_CLOSE = "\ue0f0", "\ue0f1", "\ue0f2", "\ue0f3"
PLACEHOLDER = re.compile(f"{TURN_OPEN}(\\d+){TURN_CLOSE}")


class Layout(NamedTuple):
    """What a template writes: `text` with a placeholder for each turn, and the ranges that `{% generation %}` marks."""

    text: str
    marked: tuple[tuple[int, int], ...]


class TemplateRefusal(ValueError):
    """A dialogue that the template does not render. The message says why."""


class ChatTemplate:
    """A chat template, rendered as transformers does, in a sandbox and in bounded time."""

    def __init__(self, source: str, tokens: dict[str, str], day: date | None):
        """`tokens` are the special tokens by name, as `bos_token`; `day` is what a template with a clock gets.

        Raises `ModelError`.
        """
        self.source = source
        self._tokens, self._day = tokens, day
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ModelError(f"its chat template has {len(source):,} characters, more than {MAX_TEMPLATE_CHARACTERS:,}")
        sandbox = Sandbox([_Generation, loopcontrols])
        try:
            self._template = run_in_time(lambda: sandbox.compile_source(source), len(source), *_GIVEN_UP)
        except ModelError:
            raise
        except Exception as error:  # of Jinja, and of Python, which compiles what Jinja writes
            raise ModelError(f"its chat template is no Jinja template ({_reason(error)})") from None

    def __reduce__(self) -> tuple[Any, ...]:  # jinja's own template cannot be sent to another process
        return type(self), (self.source, self._tokens, self._day)

    @property
    def has_clock(self) -> bool:
        return "strftime_now" in self.source

    def lay_out(self, roles: Sequence[str], generation_prompt: bool = False) -> Layout:
        """The layout of a dialogue whose turns have these `roles`; with what opens a reply, if asked for.

        Raises `TemplateRefusal` where the template refuses the roles, or leaves out, repeats or moves a turn.
        """
        messages = [{"role": role, "content": placeholder(turn)} for turn, role in enumerate(roles)]
        rendered = run_in_time(lambda: self._render(messages, generation_prompt), 0, *_GIVEN_UP)
        parts, marked, opened, length = [], [], 0, 0
        for part in re.split(f"([{MARK_OPEN}{MARK_CLOSE}])", rendered):
            if part == MARK_OPEN:
                opened = length
            elif part == MARK_CLOSE:
                marked.append((opened, length))
            else:
                parts.append(part)
                length += len(part)
        text = "".join(parts)
        found = [int(sign[1]) for sign in PLACEHOLDER.finditer(text)]
        for turn, role in enumerate(roles):
            if found.count(turn) != 1:
                raise TemplateRefusal(f"it writes the {role} turn {turn} {found.count(turn)} times")
        if found != sorted(found):
            raise TemplateRefusal("it changes the order of the turns")
        return Layout(text, tuple(marked))

    def render_texts(self, dialogues: Sequence[tuple[Sequence[str], Sequence[str], bool]]) -> list[str]:
        """What the template writes for the roles and texts of each dialogue, with what opens a reply where that is asked
        for; nothing for a dialogue that it refuses."""

        def render_all() -> list[str]:
            return [self._render_or_refuse(*dialogue) for dialogue in dialogues]

        characters = sum(len(text) for _, texts, _ in dialogues for text in texts)
        return run_in_time(render_all, characters, *_GIVEN_UP)

    def _render_or_refuse(self, roles: Sequence[str], texts: Sequence[str], generation_prompt: bool) -> str:
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        try:
            return re.sub(f"[{MARK_OPEN}{MARK_CLOSE}]", "", self._render(messages, generation_prompt))
        except TemplateRefusal:
            return ""

    def _render(self, messages: list[dict[str, str]], generation_prompt: bool) -> str:
        longest = MAX_LAYOUT_CHARACTERS + 4 * sum(len(message["content"]) for message in messages)
        variables = {
            "messages": messages,
            "add_generation_prompt": generation_prompt,
            "enable_thinking": False,
            "strftime_now": self._strftime,
            "tools": None,
            "documents": None,
            **self._tokens,
        }
        try:
            text = render(self._template, longest, variables)
            text.encode()
        except UnicodeEncodeError:
            raise TemplateRefusal("it writes half of a surrogate pair, which is no character") from None
        except Exception as error:  # a template may do anything; what it raises says why it refuses a dialogue
            raise TemplateRefusal(_reason(error)) from None
        if len(text) > longest:
            raise TemplateRefusal(f"it writes {len(text):,} characters")
        return text

    def _strftime(self, form: str) -> str:
        if len(form) > MAX_DATE_CHARACTERS:
            raise TemplateRefusal(f"it asks for a date of {len(form):,} characters")
        return (self._day or date.today()).strftime(form)


def placeholder(turn: int) -> str:
    return f"{TURN_OPEN}{turn}{TURN_CLOSE}"


def _reason(error: BaseException) -> str:
    return f"{str(error) or type(error).__name__}".split("\n")[0][:200]


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` of transformers, which marks the tokens of the assistant."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _mark(self, context: jinja2.nodes.EvalContext, caller: Any) -> str:
        return f"{MARK_OPEN}{caller()}{MARK_CLOSE}"
