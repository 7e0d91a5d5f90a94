"""The page that shows which tokens carry the loss, and when: one HTML file, which asks for nothing outside itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

TEMPLATE = Path(__file__).with_name("mask_page.html")
PLACE = "{{content}}"
# What could end the script or start markup, the two ends of a line that JavaScript knows, and halves of a character,
# which no file can hold.
UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def render_mask_page(content: Mapping) -> str:
    """`content` as a page.

    {
        "title": str,
        "facts": [[name, text], ...],
        "points": [progress, ...]         chosen points of the training; the first is the one shown at first
        "schedule_steps": int             step = progress * schedule_steps
        "schedule": [[progress, user's weight, assistant's weight, by_lot], ...]   sorted; each holds until the next
        "dialogues": [{                   one of each sequence
            "id": str, "part": int, "parts": int,      part counts from 1
            "tokens": int, "lost_tokens": int, "lost_turns": int, "note": str,
            "tags": [...],                             of "cut", "untrained", "longest"
            "runs": [{
                "role": "system" | "user" | "assistant" | "end" | "start",
                "turn": int, "position": int,          position of its first token in the sequence
                "ids": [int, ...], "texts": [str, ...],
                "lost": int,                           tokens that truncation took from it; may be absent
                "weight": [a, b, c],                   a * user's weight + b * assistant's weight + c
                "lot": [a, b, c] | None,               the same where by_lot holds; may be absent
            }, ...],
        }, ...],
        "tables": [{"title": str, "head": [str, ...], "rows": [[str, ...], ...]}, ...],
        "figures": [{"title": str, "png": base64, "alt": str}, ...],
    }

    Raises `ValueError` where a number is not finite.
    """
    text = json.dumps(dict(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    before, _, after = TEMPLATE.read_text(encoding="utf-8").partition(PLACE)
    return before + UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + after
