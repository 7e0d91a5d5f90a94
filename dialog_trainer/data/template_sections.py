"""Divides the layout of a chat template into sections: its special tokens, and the characters between them."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from dialog_trainer.data.template_layout import PLACEHOLDER, ChatTemplate, Layout, TemplateRefusal, placeholder
from dialog_trainer.data.text_encoder import TextEncoder, is_control

# Plans that are kept: dialogues with the same roles share one.
MAX_PLANS = 4096
_OPEN_THOUGHTS = re.compile(r"(<(?:think|thinking|thought|reasoning)>)\s*$")


class Part(NamedTuple):
    """Characters of the template, or, where `turn` is given, the text of that turn. `owner`: the turn they belong to;
    `opens_reply`: the first characters that a reply owns."""

    text: str
    turn: int | None
    owner: int | None
    opens_reply: bool = False


class Section(NamedTuple):
    """The characters between two special tokens; or, where `special` is its id, one of them, owned by the turn `owner`."""

    parts: tuple[Part, ...]
    special: int | None
    owner: int | None


class SectionPlanner:
    """Divides the layouts of a template into sections, and says which turn owns which of their characters.

    A turn owns its text and the special token behind it (with white space between them), and a reply what the template
    writes between the generation prompt and its text. `{% generation %}` marks go before that.
    """

    def __init__(self, template: ChatTemplate, hf_tokenizer: PreTrainedTokenizerFast, encoder: TextEncoder):
        self._template = template
        tokens = {token.content: (index, token) for index, token in hf_tokenizer.added_tokens_decoder.items()}
        self._special = {
            name: (index, token.lstrip, token.rstrip) for name, (index, token) in tokens.items() if is_control(token)
        }
        found = {name: encoder.why_found_otherwise(token) for name, (_, token) in tokens.items()}
        self._found_otherwise = {name: reason for name, reason in found.items() if reason and name in self._special}
        names = "|".join(re.escape(name) for name in sorted(self._special, key=len, reverse=True)) or "(?!)"
        self._end = re.compile(f"\\s*({names})")
        self._cut = re.compile(f"{PLACEHOLDER.pattern}|({names})")
        self._plans: dict[tuple[tuple[str, ...], str], list[Section]] = {}
        self._layouts: dict[tuple[tuple[str, ...], bool], Layout] = {}
        self._whole: dict[tuple[str, ...], bool] = {}

    def plan(self, roles: tuple[str, ...], kind: str) -> list[Section]:
        """The sections of a dialogue whose turns have these `roles`; the same ones are kept.

        For the roles (user, assistant) and ChatML, by `kind`:

            whole    <|im_start|>user\n TEXT <|im_end|>\n<|im_start|>assistant\n TEXT <|im_end|>\n
            reply    <|im_start|>user\n TEXT <|im_end|>\n<|im_start|>assistant\n TEXT <|im_end|>
            opening  <|im_start|>user\n TEXT <|im_end|>\n<|im_start|>assistant\n
            prompt   the same, for the role (user) alone: what the template itself writes to open a reply

        Raises `TemplateRefusal`.
        """
        key = (roles, kind)
        if key not in self._plans:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[key] = self._divide(self._lay_out(roles, kind), roles)
        return self._plans[key]

    def is_whole(self, roles: tuple[str, ...]) -> bool:
        """Whether one sequence can hold these turns: the prompts of the first and of the last reply are beginnings of it."""
        if roles not in self._whole:
            if len(self._whole) >= MAX_PLANS:
                self._whole.clear()
            replies = [turn for turn, role in enumerate(roles) if role == "assistant" and turn > 0]
            try:
                text = self._layout(roles).text
                prompts = [self._prompt(roles[:turn]) for turn in {*replies[:1], *replies[-1:]}]
                self._whole[roles] = all(map(text.startswith, prompts))
            except TemplateRefusal:
                self._whole[roles] = False
        return self._whole[roles]

    def find_ends(self, roles: tuple[str, ...], role: str) -> set[int]:
        """Ids of the special tokens that end the turns of `role`. Raises `TemplateRefusal` where a reply has none."""
        text = self._layout(roles).text
        turns = [turn for turn, one in enumerate(roles) if one == role]
        if role != "assistant":
            turns = [turn for turn in turns if self._end.match(text, _end_of_text(text, turn))]
        return {self._special[self._find_end(text, turn)][0] for turn in turns}

    def describe_open_thoughts(self) -> str | None:
        """A note on a template whose generation prompt begins the thoughts of a reasoning model, and ends in them."""
        opened = _OPEN_THOUGHTS.search(self._prompt(("user",)))
        return opened and (
            f"the chat template opens a reply with {opened[1]}, and dialogues have no thoughts: replies are trained right "
            "behind it, as a chat generates them; a program that hides thoughts would hide them"
        )

    def find_changed_turns(self, dialogues: Sequence[tuple[tuple[str, ...], Sequence[str]]]) -> list[int | None]:
        """For the roles and texts of each dialogue, the first turn whose text the template does not write as it is."""
        asked = [
            (roles, texts, False) if self.is_whole(roles) else _up_to_last_reply(roles, texts)
            for roles, texts in dialogues
        ]
        rendered = self._template.render_texts(asked)
        return [self._find_change(*one, text) for one, text in zip(asked, rendered, strict=True)]

    def _find_change(self, roles: tuple[str, ...], texts: Sequence[str], prompt: bool, rendered: str) -> int | None:
        try:
            layout = self._layout(roles, prompt).text if roles else ""
        except TemplateRefusal:  # a plan says why
            return None
        ends, expected = [], ""
        for number, piece in enumerate(PLACEHOLDER.split(layout)):
            expected += texts[int(piece)] if number % 2 else piece
            ends += [len(expected)] if number % 2 else []
        if not roles or rendered == expected:
            return None
        return min(bisect_right(ends, len(os.path.commonprefix([rendered, expected]))), len(ends) - 1)  # noqa: RUF071

    def _layout(self, roles: tuple[str, ...], generation_prompt: bool = False) -> Layout:
        key = (roles, generation_prompt)
        if key not in self._layouts:
            if len(self._layouts) >= MAX_PLANS:
                self._layouts.clear()
            self._layouts[key] = self._template.lay_out(roles, generation_prompt)
        return self._layouts[key]

    def _prompt(self, roles: tuple[str, ...]) -> str:
        return self._layout(roles, generation_prompt=True).text

    def _find_end(self, text: str, turn: int) -> str:
        found = self._end.match(text, _end_of_text(text, turn))
        if found is None:
            raise TemplateRefusal(
                "it ends a reply without a special token, so that a chat would not know where to stop"
            )
        return found[1]

    def _lay_out(self, roles: tuple[str, ...], kind: str) -> Layout:
        if kind == "prompt":
            return Layout(self._prompt(roles), ())
        layout, last = self._layout(roles), len(roles) - 1
        if kind == "opening":
            return Layout(layout.text[: layout.text.index(placeholder(last))], ())
        if kind == "reply":
            return Layout(self._prompt(roles[:-1]) + placeholder(last) + self._find_end(layout.text, last), ())
        replies = [turn for turn, role in enumerate(roles) if role == "assistant"]
        if replies:
            self._find_end(layout.text, replies[-1])
        return layout

    def _find_lead(self, text: str, roles: tuple[str, ...]) -> str:
        """What a layout writes between the prompt of a reply and its text, as a space: a chat generates it."""
        replies = [int(sign[1]) for sign in PLACEHOLDER.finditer(text)]
        replies = [turn for turn in replies if roles[turn] == "assistant" and turn > 0]
        prompt = self._prompt(roles[: replies[-1]]) if replies else ""
        if not replies or not text.startswith(prompt):
            return ""
        lead = text[len(prompt) : text.index(placeholder(replies[-1]))]
        if lead.strip():
            raise TemplateRefusal(
                f"it writes {lead.strip()!r} between what opens a reply and its text, which a chat cannot"
            )
        return lead

    def _divide(self, layout: Layout, roles: tuple[str, ...]) -> list[Section]:
        owners = self._own(layout, roles)
        replies = {turn for turn, role in enumerate(roles) if role == "assistant"}
        sections: list[Section] = []
        parts: list[Part] = []
        strip, position = False, 0

        def add_text(start: int, end: int) -> None:
            nonlocal strip
            text = layout.text[start:end]
            if strip:
                start += len(text) - len(text.lstrip())
            strip = strip and start == end
            while start < end:
                stop = next((at for at in range(start, end) if owners[at] != owners[start]), end)
                add_part(layout.text[start:stop], None, owners[start])
                start = stop

        def add_part(text: str, turn: int | None, owner: int | None) -> None:
            opens = owner in replies and bool(parts) and parts[-1].owner != owner
            parts.append(Part(text, turn, owner, opens))

        for sign in self._cut.finditer(layout.text):
            add_text(position, sign.start())
            position = sign.end()
            if sign[1] is not None:
                add_part("", int(sign[1]), int(sign[1]))
                strip = False
                continue
            index, before, behind = self._special[sign[2]]
            reason = self._found_otherwise.get(sign[2])
            if reason:
                raise TemplateRefusal(f"transformers finds its token {sign[2]} in another way: {reason}")
            while before and parts and parts[-1].turn is None:
                text = parts[-1].text.rstrip()
                parts[-1:] = [parts[-1]._replace(text=text)] if text else []
                if text:
                    break
            sections += [Section(tuple(parts), None, None)] if parts else []
            sections.append(Section((), index, owners[sign.start()]))
            parts, strip = [], behind
        add_text(position, len(layout.text))
        return [*sections, Section(tuple(parts), None, None)] if parts else sections

    def _own(self, layout: Layout, roles: tuple[str, ...]) -> list[int | None]:
        """The turn that owns each character of a layout."""
        owners: list[int | None] = [None] * len(layout.text)

        def own(start: int, end: int, turn: int) -> None:
            owners[start:end] = [turn] * (end - start)

        lead = self._find_lead(layout.text, roles)
        places = {int(sign[1]): sign.span() for sign in PLACEHOLDER.finditer(layout.text)}
        for turn, (start, end) in places.items():
            found = self._end.match(layout.text, end)
            own(start, found.end() if found else end, turn)
            if roles[turn] == "assistant" and lead and layout.text.endswith(lead, 0, start):
                own(start - len(lead), start, turn)
        for start, end in layout.marked:
            inside = [turn for turn, place in places.items() if place[0] < end]
            if inside:
                own(start, end, inside[-1])
        return owners


def _end_of_text(text: str, turn: int) -> int:
    """Where the text of a turn ends in a layout."""
    return text.index(placeholder(turn)) + len(placeholder(turn))


def _up_to_last_reply(roles: tuple[str, ...], texts: Sequence[str]) -> tuple[tuple[str, ...], Sequence[str], bool]:
    """What a chat renders for the last reply."""
    last = max((turn for turn, role in enumerate(roles) if role == "assistant"), default=0)
    return roles[:last], texts[:last], True
