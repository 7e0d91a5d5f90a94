"""Names of roles in data -> `Role` and label, by the names that are known and by `data.roles`."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence, Set

from dialog_trainer.command_line import format_override, is_plain
from dialog_trainer.errors import DataError
from dialog_trainer.types import Role

# A role, and the name that a chat template has for it where it is neither system, user nor assistant.
NamedRole = tuple[Role, str]

_NAMES: dict[NamedRole, tuple[str, ...]] = {
    (Role.SYSTEM, ""): ("system",),
    (Role.SYSTEM, "developer"): ("developer",),
    (Role.SYSTEM, "tool"): ("tool", "observation", "ipython", "tool_response", "tool_result", "tool_output"),
    (Role.SYSTEM, "function"): ("function", "function_response"),
    (Role.USER, ""): ("user", "human", "prompter"),
    (Role.ASSISTANT, ""): ("assistant", "gpt", "chatgpt", "bot", "model", "ai", "function_call", "tool_call"),
}
KNOWN_ROLES: dict[str, NamedRole] = {name: role for role, names in _NAMES.items() for name in names}
# As a value of `data.roles`: whoever speaks first in a dialogue.
FIRST_SPEAKER = "first_speaker"
ALTERNATE = "let the turns alternate: 'data.columns={role: null}'"
# Names that messages list.
MAX_SHOWN = 8


class RoleMap:
    """The roles of the speakers of a dialogue. Upper case and spaces around a name do not matter.

    `roles` has two forms. From a name to its role: `{agent: assistant, customer: user}`; other names keep the role that
    they are known by. Or from a role to the name of a person, or to several: `{assistant: Monica}`; then all others are
    the user (with `{user: ...}`, the assistant; with both, not known), except system and tools. `{user: first_speaker}` is
    whoever speaks first.
    Raises `DataError` for anything else.
    """

    def __init__(self, roles: Mapping[str, str | Sequence[str]] | None = None):
        self.names: dict[str, str] = {}  # plain -> as it is in `roles`
        self.known = dict(KNOWN_ROLES)
        self._others: NamedRole | None = None
        self._first: NamedRole | None = None
        problem = _find_problem(roles or {})
        if problem:
            raise DataError(f"data.roles: {problem}")
        for key, value in (roles or {}).items():
            if _is_role(key, value):
                self.known[_plain(key)] = KNOWN_ROLES[str(value)]
                self.names[_plain(key)] = key
            else:
                self._name_people(key, [value] if isinstance(value, str) else list(value))

    def _name_people(self, role: str, people: list[str]) -> None:
        own = KNOWN_ROLES[role]
        other = (Role.USER if own[0] == Role.ASSISTANT else Role.ASSISTANT, "")
        self._others = None if self._others else other  # None where both are named
        self.known = {
            name: known for name, known in self.known.items() if known[0] == Role.SYSTEM or name in self.names
        }
        if people == [FIRST_SPEAKER]:
            self._first = own
            return
        for person in people:
            self.known[_plain(person)] = own
            self.names[_plain(person)] = person

    @property
    def needs_dialogue(self) -> bool:
        """Whether a role depends on more than its name, or names are counted."""
        return bool(self._others or self.names)

    def find_unused(self, speakers: Counter[str]) -> dict[str, str]:
        """The error where no name is one of the `speakers` (plain) of the data: of "people" where it names those of one
        role and takes all speakers that are there for the other, else of "roles"."""
        if not self.names or self.names.keys() & speakers:
            return {}
        near = difflib.get_close_matches(next(iter(self.names)), speakers, n=1)
        found = ", ".join(f"{name!r} ({count:,} turns)" for name, count in speakers.most_common(MAX_SHOWN))
        hint = f"; did you mean {near[0]}?" if near else ""
        error = f"data.roles names {', '.join(sorted(self.names.values()))}; the data have {found or 'no roles'}{hint}"
        return {"people" if self._others and speakers else "roles": error}

    def resolve(self, names: Sequence[str]) -> list[NamedRole | None]:
        """The roles of the speakers of a dialogue, None for a name that nothing is known of."""
        found = [self.known.get(name) or self.known.get(_plain(name), self._others) for name in names]
        if self._first is not None:
            speakers = [name for name, role in zip(names, found, strict=True) if role is self._others]
            found = [
                self._first if role is self._others and name == speakers[0] else role
                for name, role in zip(names, found, strict=True)
            ]
        return found


def _is_role(key: str, value: str | Sequence[str]) -> bool:
    """Whether an item maps a name to its role. In `{assistant: bot}`, where that would say nothing, the bot is a person."""
    is_person = key in ("user", "assistant") and value != key
    return (
        isinstance(value, str) and value in KNOWN_ROLES and not (is_person and KNOWN_ROLES[value] == KNOWN_ROLES[key])
    )


def _find_problem(roles: Mapping[str, str | Sequence[str]]) -> str | None:
    """What is wrong with a value of `data.roles`, None if nothing."""
    people = {key: value for key, value in roles.items() if not _is_role(key, value)}
    for key, value in people.items():
        if key not in ("user", "assistant"):
            names = value if isinstance(value, str) else ", ".join(value)
            return f"{key}: {names} is no role; the roles are system, user, assistant and tool"
    first = any(value in (FIRST_SPEAKER, [FIRST_SPEAKER]) for value in people.values())
    return (
        f"{FIRST_SPEAKER} goes with one role: all others are then the other one" if first and len(people) > 1 else None
    )


def describe_unknown(unknown: Counter[str], place: str, known: Set[Role]) -> str:
    """The message for names without a role; `place` is where the first one is, `known` are the roles user and assistant
    that the same dialogues name."""
    common = unknown.most_common(MAX_SHOWN)
    names = ", ".join(f"{name!r} ({count:,} turns)" for name, count in common)
    more = f", and {len(unknown) - len(common):,} more" if len(unknown) > len(common) else ""
    first = common[0][0]
    guess = "user" if known == {Role.ASSISTANT} else "assistant"
    ways = ["that whoever speaks first is the user: 'data.roles={user: first_speaker}'"]
    if is_plain(first):
        ways.insert(0, f"the role of each name: 'data.roles={{{first}: {guess}, ...}}'")
    if not known or not is_plain(first):
        assistant = format_override("data.roles", {"assistant": first})
        ways.insert(0, f"who the assistant is: {assistant} (all others are then the user)")
    return f"{place}: these roles are not known: {names}{more}. Say {'; or '.join(ways)}; or {ALTERNATE}"


def _plain(name: str) -> str:
    return name.strip().lower()
