"""Names of the held-out losses, in rows, scores and figures."""

from __future__ import annotations

from dialog_trainer.types import NUM_TURN_BINS, Role

ROLE_NAMES = {Role.ASSISTANT: "assistant", Role.USER: "user", Role.END: "end"}
TURN_NAMES = tuple(f"nll_turn_{turn:02d}" for turn in range(NUM_TURN_BINS - 1))
