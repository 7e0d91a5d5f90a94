"""The table of what was understood of the data, before the first step: roles, turns, tokens and what carries loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dialog_trainer.config.schema import Config
from dialog_trainer.errors import DataError
from dialog_trainer.masking.coverage import SplitSummary
from dialog_trainer.masking.timeline import ScheduleTimeline
from dialog_trainer.screen import printable
from dialog_trainer.types import Role, Say

# Keys that a line lists, and the characters of each.
MAX_KEYS = 6
MAX_KEY = 40
_ROLES = {
    Role.USER: "user",
    Role.ASSISTANT: "assistant",
    Role.SYSTEM: "system",
    Role.END: "end",
    Role.FORMAT: "format",
}


def report_splits(
    summaries: Sequence[SplitSummary], timeline: ScheduleTimeline, trained_role: Role, config: Config, say: Say
) -> None:
    """Prints the table. Raises `DataError` with it if in a split nothing of the trained role carries loss."""
    lines = [
        *_table(summaries, timeline),
        *_unread(summaries),
        *(line for one in summaries for line in _notes(one, config)),
    ]
    silent = [
        _silence(one, trained_role) for one in summaries if not one.before[trained_role] + one.after[trained_role]
    ]
    if silent:
        raise DataError("\n".join([*lines, *silent]))
    for line in lines:
        say(line)


def _table(summaries: Sequence[SplitSummary], timeline: ScheduleTimeline) -> Iterable[str]:
    heads = ("at first", f"from step {timeline.final_from_step:,}") if timeline.changes else ("throughout",)
    yield "what was understood of the data; at the right, the tokens that carry loss"
    yield f"{'split':11}{'role':10}{'turns':>11}{'tokens':>13}" + "".join(f"{head:>{len(head) + 2}}" for head in heads)
    for one in summaries:
        name, tokens = one.name, one.counts.tokens.sum(1)
        for role, role_name in _ROLES.items():
            turns = "" if role in (Role.END, Role.FORMAT) else f"{_turns(one, role):,}"
            if not tokens[role]:
                continue
            shares = (one.before[role], one.after[role])[: len(heads)]
            cells = (f"{share / tokens[role]:>{len(head) + 2}.1%}" for share, head in zip(shares, heads, strict=True))
            yield f"{name:11}{role_name:10}{turns:>11}{tokens[role]:>13,}" + "".join(cells)
            name = ""


def _turns(summary: SplitSummary, role: Role) -> int:
    """The turns of a role; those of tools count as the system's."""
    if role != Role.SYSTEM:
        return summary.turns_by_role.get(_ROLES[role], 0)
    return sum(count for name, count in summary.turns_by_role.items() if name not in ("user", "assistant"))


def _unread(summaries: Sequence[SplitSummary]) -> Iterable[str]:
    """The keys that were not read; splits that are parts of the same rows have the same ones, counted together."""
    names: dict[str, list[str]] = {}
    for one in summaries:
        shown = ", ".join(
            f"{printable(key)[:MAX_KEY]} ({count:,})" for key, count in list(one.unread.items())[:MAX_KEYS]
        )
        more = f" and {len(one.unread) - MAX_KEYS:,} more" if len(one.unread) > MAX_KEYS else ""
        names.setdefault(shown + more, []).append(one.name)
    yield from (f"{' and '.join(splits)}: keys not read: {keys}" for keys, splits in names.items() if keys)


def _notes(summary: SplitSummary, config: Config) -> Iterable[str]:
    kept = summary.counts
    context = {name: count for name, count in summary.turns_by_role.items() if name not in _ROLES.values()}
    if context:
        counts = ", ".join(f"{count:,} of {printable(name)}" for name, count in context.items())
        yield f"{summary.name}: turns that count as the system's: {counts}"
    if summary.by_position:
        yield f"{summary.name}: dialogues without names of roles: {summary.by_position:,} (turns alternate, the user first)"
    if kept.lost_tokens:
        rule = (
            f"data.truncation={config.data.truncation}" if summary.name == "train" else "held-out dialogues are split"
        )
        yield (
            f"{summary.name}: truncation takes {kept.lost_tokens / kept.turn_tokens:.1%} of the tokens of turns: "
            f"{kept.cut_turns:,} turns cut, {kept.lost_turns:,} removed (model.max_len={config.model.max_len}, {rule})"
        )
    if summary.unknown:
        share = summary.unknown / max(1, kept.tokens.sum())
        yield f"{summary.name}: {share:.1%} of all its tokens are unknown to the vocabulary: does the model know this language?"


def _silence(summary: SplitSummary, role: Role) -> str:
    name = _ROLES[role]
    found = ", ".join(f"{printable(one)} ({count:,})" for one, count in summary.turns_by_role.items())
    turns = summary.turns_by_role.get(name, 0)
    if turns:
        return f"{summary.name}: none of the {turns:,} turns of the {name} carries loss: the data give them weight 0"
    others = [one for one in summary.turns_by_role if one != name]
    guess = "system" if "system" in others else others[-1] if others else "name"
    return (
        f"{summary.name}: no turn is the {name}'s; the roles are {found}. Say whose turns these are, as "
        f"'data.roles={{{guess}: {name}}}', or train the other role: mask_schedule.trained_role"
    )
