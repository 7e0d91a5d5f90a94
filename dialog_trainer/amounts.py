"""Sizes and times as texts: `1.2 GB`, `34 MB`, `0:42`, `1:02:03`, `2.5 h`."""

from __future__ import annotations


def format_bytes(size: float) -> str:
    """In GB, or below 100 MB in MB, at least 1."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{max(1, round(size / 1e6))} MB"


def format_clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_duration(seconds: float) -> str:
    """In hours, minutes or seconds, about two digits of them."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.{int(seconds < 600)}f} min"
    return f"{seconds:.0f} s"
