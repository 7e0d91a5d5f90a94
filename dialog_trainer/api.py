"""Public API for notebooks and scripts: train from overrides, load a run, read its rows and scores, reply to messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from transformers import PreTrainedModel

from dialog_trainer.build.model import load_saved_model
from dialog_trainer.build.runtime import select_device
from dialog_trainer.cli import compose, launch, saved_config
from dialog_trainer.cli.overrides import format_value, prepare_overrides
from dialog_trainer.config.job import Job
from dialog_trainer.config.schema import Config
from dialog_trainer.data.sources.row_format import parse_row
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import CheckpointError, TrainingError
from dialog_trainer.evaluation.results import MAX_SCORES_BYTES, SCORES_FILE
from dialog_trainer.files import read_bounded
from dialog_trainer.model.generation.generate import stream_reply
from dialog_trainer.model.generation.sampling import Decoding
from dialog_trainer.seeds import derive_seed
from dialog_trainer.tracking.jsonl import read_newest_rows
from dialog_trainer.tracking.run_directory import claim_run_directory
from dialog_trainer.training.checkpoint_directory import hold_checkpoint
from dialog_trainer.types import Role, Turn


class Message(TypedDict):
    """One turn: `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class SavedRun:
    """A run on disk: its `folder` and its validated `config`."""

    folder: Path
    config: Config

    def read_metrics(self, split: str = "train") -> list[dict[str, Any]]:
        """Rows of `metrics.jsonl` of one split (`train`, `validation`, `probe`), by step; of each step the newest attempt."""
        return read_newest_rows(self.folder / "metrics.jsonl", split)

    def read_scores(self, split: str = "validation", protocol: str = "response") -> dict[str, Any]:
        """What `mode=validate` wrote to `scores.json`. Raises `CheckpointError` if it has not run."""
        name = f"validation/{split}/{protocol}/{SCORES_FILE}"
        try:
            scores: dict[str, Any] = json.loads(read_bounded(self.folder, name, MAX_SCORES_BYTES))
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.folder / name} does not exist: run mode=validate with split={split} metrics={protocol} first"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.folder / name} cannot be read: {error}") from None
        return scores

    def load_chatbot(self, checkpoint: str = "metric", device: str = "auto") -> Chatbot:
        """The model of a checkpoint: `metric` (best score), `loss` (best loss) or `last`. Raises `CheckpointError`."""
        config = self.config.replace({"mode": "chat", "resume_model_dir": str(self.folder), "device": device})
        with hold_checkpoint(self.folder, checkpoint) as found:
            model, tokenizer = load_saved_model(self.folder / found, config, select_device(config), lambda line: None)
        return Chatbot(model, tokenizer, config)


class Chatbot:
    """A trained model that replies to messages."""

    def __init__(self, model: PreTrainedModel, tokenizer: DialogueTokenizer, config: Config):
        self.model, self.tokenizer, self._config = model, tokenizer, config

    def reply(
        self,
        messages: Sequence[Message],
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> str:
        """The assistant's next turn. `temperature` 0 is greedy; otherwise nucleus sampling, the same for the same `seed`.

        A context longer than `model.max_len - max_new_tokens` loses whole turns from the left. Raises `ValueError` for
        messages without a turn, or with an unknown role.
        """
        turns = parse_row({"messages": list(messages)})
        if not turns or turns[-1].role == Role.ASSISTANT:
            raise ValueError("messages must end with a turn that the assistant answers")
        limit = max_new_tokens or self._config.metrics.generation.max_new_tokens or 1
        (context,) = self.tokenizer.chat_format.encode_contexts(
            [*turns, Turn(Role.ASSISTANT, "")], [len(turns)], self._config.model.max_len - limit
        )
        decoding = Decoding("sample", temperature, top_p) if temperature else Decoding()
        return stream_reply(
            self.model, self.tokenizer, context, lambda text: None,
            decoding=decoding, seed=derive_seed("api", seed), max_new_tokens=limit,
        )  # fmt: skip


def load_run(folder: str | Path) -> SavedRun:
    """The run in a folder. Raises `CheckpointError` if there is none, or its `args.yaml` is damaged."""
    return SavedRun(Path(folder), Config.from_dict(saved_config.read_saved(Path(folder))))


def train(overrides: Mapping[str, Any]) -> SavedRun:
    """Trains a new run in this process, as `python -m dialog_trainer key=value ...`, and returns it.

    Example:
        run = train({"model": "gpt2_tiny", "data": "chitchat", "steps": 200, "optim.lr0": 1e-3})

    Raises `ConfigError` with every error of the configuration, and what training raises.
    """
    typed = prepare_overrides([f"{key}={format_value(value)}" for key, value in overrides.items()])
    (new,) = compose.compose_runs(typed, None, sweep=False)
    folder = claim_run_directory(Path(new.config.project), new.config.name)
    code = launch.run_job(Job(new.config, parent=str(folder), hydra_files=new.hydra_files))
    if code:
        raise TrainingError(f"{folder}: training ended with exit code {code}; resume it with mode=resume")
    return load_run(folder)
