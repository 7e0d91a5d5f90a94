"""From the layout of a chat template to tokens: what stands between two special tokens is encoded as one text.

That gives the ids of transformers' `apply_chat_template`, except where a text holds the name of a special token, which
stays characters here.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from dialog_trainer.data.template_layout import PLACEHOLDER, ChatTemplate, Layout, TemplateRefusal, placeholder
from dialog_trainer.data.text_encoder import TextEncoder, is_control

# Plans that are kept: dialogues with the same roles share one.
MAX_PLANS = 4096


class Part(NamedTuple):
    """Characters of the template, or, where `turn` is given, the text of that turn. `owner`: the turn they belong to."""

    text: str
    turn: int | None
    owner: int | None


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

    def __init__(self, template: ChatTemplate, hf_tokenizer: PreTrainedTokenizerFast):
        self._template = template
        tokens = {token.content: (index, token) for index, token in hf_tokenizer.added_tokens_decoder.items()}
        self._special = {
            name: (index, token.lstrip, token.rstrip) for name, (index, token) in tokens.items() if is_control(token)
        }
        names = "|".join(re.escape(name) for name in sorted(self._special, key=len, reverse=True)) or "(?!)"
        self._end = re.compile(f"\\s*({names})")
        self._cut = re.compile(f"{PLACEHOLDER.pattern}|({names})")
        self._plans: dict[tuple[tuple[str, ...], str], list[Section]] = {}

    def plan_whole(self, roles: tuple[str, ...]) -> list[Section]:
        """`plan` of a whole dialogue, whose prompts must be beginnings of it."""
        if (roles, "whole") not in self._plans and not self.keeps_prefixes(roles):
            raise TemplateRefusal("it changes what it wrote before a reply once the dialogue goes on")
        return self.plan(roles, "whole")

    def plan(self, roles: tuple[str, ...], kind: str) -> list[Section]:
        """The sections of a dialogue whose turns have these `roles`; the same ones are kept.

        `kind` is `whole`; `prompt` (what a chat gives the model before the turn behind them, the assistant's); `opening`
        (the same for the last of `roles`, whose own text is left out); or `reply` (the prompt of the last turn, which is
        the assistant's, its text and its end). Raises `TemplateRefusal`.
        """
        key = (roles, kind)
        if key not in self._plans:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[key] = self._divide(*self._lay_out(roles, kind), roles)
        return self._plans[key]

    def end_of_reply(self, roles: tuple[str, ...]) -> int:
        """The id of the special token that ends the last turn. Raises `TemplateRefusal` if there is none."""
        return self._special[self._find_end(self._template.lay_out(roles).text, len(roles) - 1)][0]

    def keeps_prefixes(self, roles: tuple[str, ...]) -> bool:
        """Whether the prompts of the first and of the last reply are beginnings of the whole dialogue."""
        replies = [turn for turn, role in enumerate(roles) if role == "assistant"]
        text = self._template.lay_out(roles).text
        return all(text.startswith(self._prompt(roles[:turn])) for turn in {*replies[:1], *replies[-1:]})

    def _prompt(self, roles: tuple[str, ...]) -> str:
        return self._template.lay_out(roles, generation_prompt=True).text

    def _find_end(self, text: str, turn: int) -> str:
        found = self._end.match(text, text.index(placeholder(turn)) + len(placeholder(turn)))
        if found is None:
            raise TemplateRefusal(
                "it ends a reply without a special token, so that a chat would not know where to stop"
            )
        return found[1]

    def _lay_out(self, roles: tuple[str, ...], kind: str) -> tuple[Layout, int | None]:
        """The layout, and where the prompt of the last reply ends in it."""
        if kind == "prompt":
            return Layout(self._prompt(roles), ()), None
        layout = self._template.lay_out(roles)
        last = len(roles) - 1
        if kind == "opening":
            return Layout(layout.text[: layout.text.index(placeholder(last))], ()), None
        if kind == "reply":
            prompt = self._prompt(roles[:-1])
            return Layout(prompt + placeholder(last) + self._find_end(layout.text, last), ()), len(prompt)
        replies = [turn for turn, role in enumerate(roles) if role == "assistant"]
        if not replies:
            return layout, None
        self._find_end(layout.text, replies[-1])
        prompt = self._prompt(roles[: replies[-1]])
        return layout, len(prompt) if layout.text.startswith(prompt) else None

    def _divide(self, layout: Layout, prompt_length: int | None, roles: tuple[str, ...]) -> list[Section]:
        owners = self._own(layout, prompt_length, roles)
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
                parts.append(Part(layout.text[start:stop], None, owners[start]))
                start = stop

        for sign in self._cut.finditer(layout.text):
            add_text(position, sign.start())
            position = sign.end()
            if sign[1] is not None:
                parts.append(Part("", int(sign[1]), int(sign[1])))
                strip = False
                continue
            index, before, behind = self._special[sign[2]]
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

    def _own(self, layout: Layout, prompt_length: int | None, roles: tuple[str, ...]) -> list[int | None]:
        """The turn that owns each character of a layout."""
        owners: list[int | None] = [None] * len(layout.text)

        def own(start: int, end: int, turn: int) -> None:
            owners[start:end] = [turn] * (end - start)

        lead = ""
        places = {int(sign[1]): sign.span() for sign in PLACEHOLDER.finditer(layout.text)}
        if prompt_length is not None:
            last = max(turn for turn in places if roles[turn] == "assistant")
            lead = layout.text[prompt_length : places[last][0]]
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


def encode_sections(
    encoder: TextEncoder, plans: Sequence[Sequence[Section]], texts: Sequence[Sequence[str]]
) -> list[list[tuple[int | None, list[int]]]]:
    """The tokens of each plan, whose turns have these `texts`, as groups `(owner, ids)`. Raises `ModelError`."""
    filled = [
        [
            "".join([part.text if part.turn is None else turn_texts[part.turn] for part in section.parts])
            for section in sections
        ]
        for sections, turn_texts in zip(plans, texts, strict=True)
    ]
    unique = list(dict.fromkeys(text for row in filled for text in row if text))
    encoded = dict(zip(unique, encoder.encode_with_ends(unique), strict=True)) if unique else {}
    return [
        [
            group
            for section, text in zip(sections, row, strict=True)
            for group in _group_tokens(section, turn_texts, *encoded.get(text, ([], [])))
        ]
        for sections, turn_texts, row in zip(plans, texts, filled, strict=True)
    ]


def _group_tokens(
    section: Section, turn_texts: Sequence[str], ids: list[int], ends: list[int]
) -> list[tuple[int | None, list[int]]]:
    """A token belongs to the part that holds its last character."""
    if section.special is not None:
        return [(section.owner, [section.special])]
    groups, first, border = [], 0, 0
    for part in section.parts[:-1]:
        border += len(part.text if part.turn is None else turn_texts[part.turn])
        end = bisect_right(ends, border)
        groups.append((part.owner, ids[first:end]))
        first = end
    return [*groups, (section.parts[-1].owner, ids[first:])]
