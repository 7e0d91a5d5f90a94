"""`trainer/state.json` of a checkpoint: its typed record, and reading it as a stranger's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dialog_trainer.errors import CheckpointError
from dialog_trainer.files import read_bounded

STATE_FILE = "trainer/state.json"
MAX_STATE_BYTES = 2**20
_Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class SavedBest(_Plain):
    """The fields of `BestTracker`; versions before 0.3 did not write the last two."""

    loss: float | None
    loss_step: _Count | None
    score: float | None
    score_step: _Count | None
    bad_validations: _Count
    score_loss: float | None = None
    score_ties: _Count = 0


class SavedState(_Plain):
    """What a checkpoint keeps besides tensors: the position of the run, and what an exact resume depends on.

    `kept` names the step of the best checkpoints at the time of the save. `config` holds the settings (`Config.to_dict`),
    `run_id` names the run; versions before 0.3 wrote neither. `base` is the digest of `base/` of a run with an adapter,
    `new_token_ids` the tokens whose rows it holds.
    """

    step: _Count
    validated_step: _Count
    skipped_updates: _Count = 0
    tokens_seen: _Count
    user_tokens_seen: _Count
    assistant_tokens_seen: _Count
    best: SavedBest
    kept: dict[str, _Count | None] = {}
    loss_scale: dict[str, float] = {}
    held_out: str
    digest: dict[str, str]
    threads: _Count
    device: str
    processes: _Count
    PYTHONHASHSEED: str | None = None
    versions: dict[str, str]
    config: dict[str, Any] | None = None
    run_id: str | None = None
    base: str | None = None
    new_token_ids: Annotated[list[_Count], Field(max_length=16)] = []


def read_state(run: Path, checkpoint: str) -> SavedState:
    """The state of a checkpoint, a directory below the run. Raises `CheckpointError` with file and field."""
    path = run / checkpoint / STATE_FILE
    try:
        return SavedState.model_validate_json(read_bounded(run, f"{checkpoint}/{STATE_FILE}", MAX_STATE_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        missing = [str(one["loc"][0]) for one in errors if one["type"] == "missing" and len(one["loc"]) == 1]
        if len(missing) == len(errors):
            raise CheckpointError(
                f"{path} has no {', '.join(missing)}: another version wrote it; to start a new run from its weights, pass "
                f"mode=train, the options of that run, and model.pretrained_model={run / checkpoint}"
            ) from None
        first = errors[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(f"{path} is no state of a checkpoint: {place}: {first['msg']}") from None
