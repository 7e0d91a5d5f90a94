"""The loss by role and by turn index, under the names that rows of `metrics.jsonl` give them."""

from __future__ import annotations

import torch

from dialog_trainer.records import NUM_DEPTHS, Role

NAMES = {Role.ASSISTANT: "assistant", Role.USER: "user", Role.END: "end"}
TURN_NAMES = tuple(f"nll_turn_{turn:02d}" for turn in range(NUM_DEPTHS - 1))


def by_role(role_turn_sums: torch.Tensor) -> dict[str, float | int | None]:
    """`assistant_nll` ... in nats a token (None without a token) and `assistant_tokens` ..., of `LossSum.cells`."""
    nats, tokens = role_turn_sums.double().sum(2).tolist()
    values: dict[str, float | int | None] = {f"{name}_nll": _mean(nats[r], tokens[r]) for r, name in NAMES.items()}
    return values | {f"{name}_tokens": int(tokens[role]) for role, name in NAMES.items()}


def by_turn(role_turn_sums: torch.Tensor) -> dict[str, float | None]:
    """`nll_turn_00` to `nll_turn_10`, over the words of the turn whoever says it (not the end of the dialogue)."""
    nats, tokens = role_turn_sums[:, [Role.USER, Role.ASSISTANT]].double().sum(1).tolist()
    return {name: _mean(nats[turn], tokens[turn]) for turn, name in enumerate(TURN_NAMES)}


def _mean(nats: float, tokens: float) -> float | None:
    return nats / tokens if tokens else None
