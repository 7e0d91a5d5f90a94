"""Sections of a chat template and the texts of its turns -> tokens: what stands between two special tokens is one text.

That gives the ids of transformers' `apply_chat_template`, except where a text holds the name of a special token, which
stays characters here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from dialog_trainer.data.template_sections import Section
from dialog_trainer.data.text_encoder import TextEncoder


def encode_sections(
    encoder: TextEncoder, plans: Sequence[Sequence[Section]], texts: Sequence[Sequence[str]]
) -> list[list[tuple[int | None, list[int]]]]:
    """The tokens of each plan, whose turns have these `texts`, as groups `(owner, ids)`. Raises `ModelError`.

    A token belongs to the part that holds its last character. But no token reaches from a prompt into a reply, which a
    chat encodes and generates apart: there the section is encoded in two.
    """
    filled = [
        [[part.text if part.turn is None else turn_texts[part.turn] for part in section.parts] for section in sections]
        for sections, turn_texts in zip(plans, texts, strict=True)
    ]
    # Before the first section of a dialogue there is no token.
    joined = [[("".join(parts), number == 0) for number, parts in enumerate(row)] for row in filled]
    encoded: dict[tuple[str, bool], tuple[list[int], list[int]]] = {}
    for at_start in (True, False):
        keys = list(dict.fromkeys(key for row in joined for key in row if key[0] and key[1] == at_start))
        texts_of_keys = [text for text, _ in keys]
        encoded |= zip(keys, encoder.encode_with_ends(texts_of_keys, at_start) if keys else (), strict=True)
    return [
        [
            group
            for section, parts, key in zip(sections, row, keys, strict=True)
            for group in _group_tokens(encoder, section, parts, *encoded.get(key, ([], [])))
        ]
        for sections, row, keys in zip(plans, filled, joined, strict=True)
    ]


def _group_tokens(
    encoder: TextEncoder, section: Section, parts: Sequence[str], ids: list[int], ends: list[int]
) -> list[tuple[int | None, list[int]]]:
    if section.special is not None:
        return [(section.owner, [section.special])]
    groups, first, border = [], 0, 0
    for number, (part, text) in enumerate(zip(section.parts, parts, strict=True)):
        if part.opens_reply and (first == 0 or ends[first - 1] != border):
            before, behind = "".join(parts[:number]), "".join(parts[number:])
            (left, left_ends), (right, right_ends) = encoder.encode_with_ends([before, behind])
            ids, ends = left + right, [*left_ends, *(border + end for end in right_ends)]
            groups, first = (
                _group_tokens(encoder, Section(section.parts[:number], None, None), parts[:number], left, left_ends),
                len(left),
            )
        border += len(text)
        end = len(ids) if number == len(parts) - 1 else bisect_right(ends, border)
        groups.append((part.owner, ids[first:end]))
        first = end
    return groups
