"""The chat format `template`: dialogues as the chat template of an instruct model writes them.

Which tokens belong to a turn, by example (ChatML):

    <|im_start|>user\n   Hi     <|im_end|>   \n<|im_start|>assistant\n   Hello  <|im_end|>   \n
    FORMAT               USER   USER         FORMAT                      ASSISTANT           FORMAT

A reply begins where the generation prompt ends, and the special token behind a text belongs to its turn: it is what a chat
waits for. Where the template has `{% generation %}` marks, they say what the assistant's is.

A template that writes an earlier turn otherwise than the last one (Qwen 3 drops its thinking) is trained as one sequence
for each reply, written as a chat would write it; turns that an earlier sequence has trained are FORMAT there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from itertools import pairwise
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerFast

from dialog_trainer.data.chat_format import ChatFormat, SeparatorFormat
from dialog_trainer.data.template_cuts import (
    count_system_turns,
    cut_to,
    find_exchange_starts,
    keep_beginning,
    keep_end_of_turns,
    mark_repeated,
)
from dialog_trainer.data.template_encoding import encode_sections
from dialog_trainer.data.template_layout import ChatTemplate, TemplateRefusal, placeholder
from dialog_trainer.data.template_sections import Section, SectionPlanner
from dialog_trainer.data.text_encoder import TextEncoder, UnfinishedError
from dialog_trainer.data.truncation import count_tokens, keep_first
from dialog_trainer.errors import DataError, ModelError
from dialog_trainer.files import sha256_of_texts
from dialog_trainer.types import Dialogue, Role, Span, TokenContract, TokenSequence, Turn

T = TypeVar("T")
_ROLE_NAMES = {Role.SYSTEM: "system", Role.USER: "user", Role.ASSISTANT: "assistant"}
_PASS = ": pass model.chat_format=separator"
_REMEDY = "change the data, or pass model.chat_format=separator"
# Roles with which a template is tried when it is loaded.
_PROBES = (("user", "assistant"), ("user", "assistant", "user", "assistant"))


class TemplateFormat:
    """The chat template of a tokenizer as a `ChatFormat`. The template is saved as it came."""

    name = "template"
    notes: tuple[str, ...] = ()

    def __init__(self, hf_tokenizer: PreTrainedTokenizerFast, day: date | None = None):
        """`day` is what a template with a clock gets. Raises `ModelError` for a template that cannot be trained."""
        source = hf_tokenizer.chat_template
        if isinstance(source, dict):  # of several templates transformers takes that one
            source = source.get("default")
        if not isinstance(source, str):
            raise ModelError(f"it has no chat template{_PASS}")
        self.encoder, self.template = TextEncoder(hf_tokenizer.backend_tokenizer.to_str()), source
        try:
            chat_template = ChatTemplate(source, _special_texts(hf_tokenizer), day)
        except UnfinishedError:
            raise
        except ModelError as error:
            raise ModelError(f"{error}{_PASS}") from None
        # Only a template with a clock depends on it.
        self.day = day if chat_template.has_clock else None
        self._planner = SectionPlanner(chat_template, hf_tokenizer, self.encoder)
        try:
            probes = [
                self._encode(_probe_turns(roles), list(range(len(roles))), self._kind(roles)) for roles in _PROBES
            ]
            reply_ends = set.union(*(self._planner.find_ends(roles, "assistant") for roles in _PROBES))
            user_ends = set.union(*(self._planner.find_ends(roles, "user") for roles in _PROBES))
        except TemplateRefusal as error:
            raise ModelError(f"its chat template cannot be trained ({error}){_PASS}") from None
        self.notes = tuple(filter(None, [self._planner.describe_open_thoughts()]))
        self.has_system = self._takes_system()
        self.ended_roles = frozenset({Role.ASSISTANT, *([Role.USER] if user_ends else [])})
        end, pad, start = hf_tokenizer.eos_token_id, hf_tokenizer.pad_token_id, hf_tokenizer.bos_token_id
        self.ends = tuple(sorted(reply_ends | user_ends | ({end} if end is not None else set())))
        self.suppressed = tuple(sorted({token for token in (pad, start) if token is not None} - set(self.ends)))
        last_tokens = frozenset(span.ids[-1] for spans in probes for span in spans if span.role == Role.ASSISTANT)
        never = None if pad in self.ends or pad == hf_tokenizer.unk_token_id else pad
        self.contract = TokenContract({Role.ASSISTANT: last_tokens}, dialogue_end=None, pad=never)
        texts = sorted(_special_texts(hf_tokenizer).items())
        self._digest = sha256_of_texts(self.encoder.digest(), source, str(texts), str(self.day))

    def digest(self) -> str:
        return self._digest

    def encode_dialogues(
        self, dialogues: Sequence[Dialogue], max_len: int, truncation: str
    ) -> list[list[TokenSequence]]:
        found = self._planner.find_changed_turns(
            [(tuple(map(_role_name, one.turns)), [turn.text for turn in one.turns]) for one in dialogues]
        )
        for dialogue, turn in zip(dialogues, found, strict=True):
            self._refuse_by_name(dialogue, _check_text, turn)
        whole = [one for one in dialogues if self._kind(tuple(map(_role_name, one.turns))) == "whole"]
        plans = [self._refuse_by_name(one, self._plan_whole) for one in whole]
        tokens = iter(encode_sections(self.encoder, plans, [[turn.text for turn in one.turns] for one in whole]))
        is_whole = set(map(id, whole))
        return [
            self._refuse_by_name(one, self._truncate, _make_spans(next(tokens), one.turns), max_len, truncation)
            if id(one) in is_whole
            else self._refuse_by_name(one, self._divide_by_reply, max_len)
            for one in dialogues
        ]

    def _kind(self, roles: tuple[str, ...]) -> str:
        return "whole" if self._planner.is_whole(roles) else "reply"

    def encode_contexts(self, turns: Sequence[Turn], indices: Sequence[int], max_tokens: int) -> list[list[int]]:
        try:
            return [self._encode_context(turns, index, max_tokens) for index in indices]
        except TemplateRefusal as error:
            raise DataError(f"the chat template cannot write this dialogue ({error}); {_REMEDY}") from None

    def _encode_context(self, turns: Sequence[Turn], index: int, max_tokens: int) -> list[int]:
        kind, behind = ("prompt", []) if turns[index].role == Role.ASSISTANT else ("opening", [index])
        spans = self._fit(turns[: index + 1], index, behind, kind, max_tokens)
        if count_tokens(spans) > max_tokens:
            spans = keep_end_of_turns(spans, max_tokens)
        return [token for span in spans for token in span.ids]

    def _refuse_by_name(self, dialogue: Dialogue, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return work(dialogue.turns, *arguments)
        except TemplateRefusal as error:
            raise DataError(f"dialogue {dialogue.id}: the chat template cannot write it ({error}); {_REMEDY}") from None

    def _plan_whole(self, turns: Sequence[Turn]) -> list[Section]:
        return self._planner.plan(tuple(map(_role_name, turns)), "whole")

    def _truncate(self, turns: Sequence[Turn], whole: list[Span], max_len: int, truncation: str) -> list[TokenSequence]:
        if count_tokens(whole) <= max_len:
            return [TokenSequence(tuple(whole))]
        if truncation == "keep_start":
            return [TokenSequence(tuple(keep_beginning(whole, max_len)))]
        if truncation == "keep_end":
            return [TokenSequence(tuple(self._keep_end(turns, whole, max_len)))]
        return [TokenSequence(tuple(part)) for part in self._split(turns, max_len)]

    def _split(self, turns: Sequence[Turn], max_len: int) -> list[list[Span]]:
        """As few sequences as possible, of complete exchanges; the system turns at the beginning are repeated in each."""
        system = list(range(count_system_turns(turns)))
        starts = [*find_exchange_starts(turns, len(system)), len(turns)]
        parts: list[list[Span]] = []
        first, part = starts[0], None
        for start, end in pairwise(starts):
            longer = self._encode(turns, [*system, *range(first, end)], "whole")
            if part is not None and count_tokens(longer) > max_len:
                parts.append(mark_repeated(part, first if parts else 0))
                first, longer = start, self._encode(turns, [*system, *range(start, end)], "whole")
            part = longer if count_tokens(longer) <= max_len else cut_to(longer, max_len)
        return [*parts, mark_repeated(part, first if parts else 0)] if part else parts

    def _keep_end(self, turns: Sequence[Turn], whole: list[Span], max_len: int) -> list[Span]:
        """The system turns at the beginning, and the last exchanges that fit with them."""
        spans = self._fit(turns, len(turns), [], "whole", max_len)
        spans = spans if count_tokens(spans) <= max_len else cut_to(spans, max_len)
        kept = {span.turn for span in spans if span.role != Role.FORMAT}
        lost = [span for span in whole if span.role != Role.FORMAT and span.turn not in kept]
        return [spans[0], *(keep_first(span, 0) for span in lost), *spans[1:]]

    def _divide_by_reply(self, turns: Sequence[Turn], max_len: int) -> list[TokenSequence]:
        """A sequence for each reply, and one for the turns behind the last reply."""
        replies = [index for index, turn in enumerate(turns) if turn.role == Role.ASSISTANT]
        sequences = []
        for first, last in pairwise([-1, *replies]):
            spans = self._fit(turns, last, [last], "reply", max_len)
            sequences.append(self._train_from(turns, spans, range(first + 1, last + 1), max_len))
        behind = range(replies[-1] + 1 if replies else 0, len(turns))
        if behind:
            spans = self._fit(turns, len(turns), [], "whole", max_len)
            sequences.append(self._train_from(turns, spans, behind, max_len))
        return sequences

    def _train_from(self, turns: Sequence[Turn], spans: list[Span], new: range, max_len: int) -> TokenSequence:
        """The sequence in which the `new` turns are trained; those among them that did not fit have lost all tokens."""
        spans = mark_repeated(spans if count_tokens(spans) <= max_len else cut_to(spans, max_len), new.start)
        kept = {span.turn for span in spans if span.role != Role.FORMAT}
        lost = [index for index in new if index not in kept]
        sizes = map(len, self.encoder.encode([turns[index].text for index in lost])) if lost else ()
        empty = [Span(turns[index].role, index, (), lost=size) for index, size in zip(lost, sizes, strict=True)]
        return TokenSequence((spans[0], *empty, *spans[1:]))

    def _fit(self, turns: Sequence[Turn], end: int, behind: list[int], kind: str, max_tokens: int) -> list[Span]:
        """The turns before `end` and those `behind`; whole turns are dropped from the left, behind the system turns at the
        beginning, until they fit or only those from the last user turn on are left."""
        system = list(range(count_system_turns(turns[:end])))
        starts = [len(system)]
        starts += [index for index in range(starts[0] + 1, end) if turns[index].role == Role.USER]

        def encode(choice: int) -> list[Span]:
            return self._encode(turns, [*system, *range(starts[choice], end), *behind], kind)

        # From the right, in growing steps: the work is that of what fits, not of the whole dialogue.
        fitting, best = len(starts) - 1, encode(len(starts) - 1)
        too_long, step = -1, 1
        while fitting - too_long > 1 and count_tokens(best) <= max_tokens:
            choice = max(0, fitting - step) if too_long < 0 else (fitting + too_long) // 2
            spans = encode(choice)
            if count_tokens(spans) <= max_tokens:
                fitting, best, step = choice, spans, 2 * step
            else:
                too_long = choice
        return best

    def _encode(self, turns: Sequence[Turn], indices: list[int], kind: str) -> list[Span]:
        """The spans of the turns at `indices`."""
        chosen = [turns[index] for index in indices]
        sections = self._planner.plan(tuple(map(_role_name, chosen)), kind)
        (tokens,) = encode_sections(self.encoder, [sections], [[turn.text for turn in chosen]])
        return [replace(span, turn=indices[span.turn]) for span in _make_spans(tokens, chosen)]

    def _takes_system(self) -> bool:
        try:
            self._planner.plan(("system", "user"), "prompt")
        except TemplateRefusal:
            return False
        return True


def choose_format(hf_tokenizer: PreTrainedTokenizerFast, day: date | None) -> ChatFormat:
    """`model.chat_format=auto`: the chat template of an instruct model, if it can be trained, else the separator format."""
    if not hf_tokenizer.chat_template or is_separator_template(hf_tokenizer):
        return SeparatorFormat(hf_tokenizer)
    chosen: ChatFormat
    try:
        chosen = TemplateFormat(hf_tokenizer, day)
        note = "model.chat_format=auto is template: the model's own chat template"
    except UnfinishedError:
        raise
    except ModelError as error:
        chosen = SeparatorFormat(hf_tokenizer)
        note = (
            f"model.chat_format=auto is separator: the model has a chat template, but {str(error).removesuffix(_PASS)}"
        )
    chosen.notes = (*chosen.notes, note)
    return chosen


def is_separator_template(hf_tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a tokenizer's chat template writes the separator format, as a run of this program saves it."""
    try:
        tokens = _special_texts(hf_tokenizer)
        text = ChatTemplate(str(hf_tokenizer.chat_template), tokens, None).lay_out(_PROBES[0]).text
    except UnfinishedError:
        raise
    except (ModelError, TemplateRefusal):
        return False
    return text == f"[CLS]{placeholder(0)}[SEP]{placeholder(1)}[SEP]{hf_tokenizer.eos_token}"


def _special_texts(hf_tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    return {name: text for name, text in hf_tokenizer.special_tokens_map.items() if isinstance(text, str)}


def _check_text(turns: Sequence[Turn], changed: int | None) -> None:
    """Refuses a dialogue of which the template changes the turn `changed`."""
    if changed is not None:
        raise TemplateRefusal(f"it changes the text of turn {changed}, {turns[changed].text[:40]!r}")


def _role_name(turn: Turn) -> str:
    return turn.label or _ROLE_NAMES[turn.role]


def _probe_turns(roles: Sequence[str]) -> list[Turn]:
    by_name = {name: role for role, name in _ROLE_NAMES.items()}
    return [Turn(by_name[role], f"Text number {index}.") for index, role in enumerate(roles)]


def _make_spans(tokens: Sequence[tuple[int | None, list[int]]], turns: Sequence[Turn]) -> list[Span]:
    """Consecutive tokens of one owner as a span. Nothing comes before the first token: it is always FORMAT."""
    groups: list[tuple[int | None, list[int]]] = []
    for owner, ids in tokens:
        if groups and groups[-1][0] == owner:
            groups[-1][1].extend(ids)
        elif ids:
            groups.append((owner, list(ids)))
    if groups and groups[0][0] is not None:
        (owner, ids), *rest = groups
        groups = [(None, ids[:1]), *([(owner, ids[1:])] if ids[1:] else []), *rest]
    spans: list[Span] = []
    following = len(turns) - 1
    for owner, ids in reversed(groups):
        following = following if owner is None else owner
        spans.append(Span(Role.FORMAT if owner is None else turns[owner].role, following, tuple(ids)))
    return spans[::-1]
