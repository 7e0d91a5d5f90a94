"""Renders the mask page: which tokens carry the loss, and when, as one HTML file without external resources."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("mask_page.html")
PLACE = "{{content}}"
# What could end the script or start markup, the two line ends of JavaScript, and lone surrogates, which no file can hold.
UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def render_mask_page(content: Mapping[str, Any]) -> str:
    """The HTML page of `content`.

    {
        "title": str,
        "facts": [[name, text], ...],
        "points": [progress, ...]         chosen points of training; the page opens at the first
        "schedule_steps": int             step = progress * schedule_steps
        "schedule": [[progress, user weight, assistant weight, drawn at random], ...]   sorted; each holds to the next
        "sequences": [{
            "id": str, "part": int, "parts": int,      the dialogue; part counts from 1
            "tokens": int, "lost_tokens": int, "lost_turns": int, "note": str,
            "tags": [...],                             of "cut", "untrained", "longest"
            "spans": [{
                "role": "system" | "user" | "assistant" | "end" | "format",
                "turn": int, "position": int,          position of its first token in the sequence
                "ids": [int, ...], "texts": [str, ...],
                "lost": int,                           tokens that truncation took from it; may be absent
                "weight": [a, b, c],                   a * user weight + b * assistant weight + c
                "random_weight": [a, b, c] | None,     the same where turns are drawn at random; may be absent
            }, ...],
        }, ...],
        "tables": [{"title": str, "head": [str, ...], "rows": [[str, ...], ...]}, ...],
        "figures": [{"title": str, "png": base64, "dark_png": base64, "alt": str}, ...],
    }

    Raises `ValueError` if a number is not finite.
    """
    text = json.dumps(dict(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    before, _, after = TEMPLATE.read_text(encoding="utf-8").partition(PLACE)
    return before + UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + after
