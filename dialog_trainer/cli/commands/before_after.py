"""mode=before_after: what training changed. The model that a run with an adapter started from, next to its checkpoint:
held-out perplexity on the same tokens, and the replies of both in a short conversation."""

from __future__ import annotations

import math

import numpy as np
from rich.console import Console
from transformers import PreTrainedModel

from dialog_trainer.build.data import Split, load_dialogues, tokenize_split
from dialog_trainer.build.decoding import build_decoding, longest_chat_reply
from dialog_trainer.build.mask import build_mask
from dialog_trainer.build.model import load_base_model, load_saved_model
from dialog_trainer.build.runtime import configure_torch, select_device
from dialog_trainer.config.job import Job
from dialog_trainer.config.schema import Config
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.errors import ConfigError
from dialog_trainer.evaluation.losses import measure_held_out_losses
from dialog_trainer.masking.timeline import build_timeline
from dialog_trainer.model.generation.conversation import Conversation
from dialog_trainer.model.generation.generate import stream_reply
from dialog_trainer.reporting.console import make_printer
from dialog_trainer.reporting.mask_page.content import describe_sequence
from dialog_trainer.reporting.tables import TextTable
from dialog_trainer.reporting.terminal import print_sequence, print_tables, print_texts
from dialog_trainer.seeds import derive_seed
from dialog_trainer.training.checkpoint_directory import hold_checkpoint
from dialog_trainer.types import Role

LINES = (
    "Hi! How are you today?",
    "What do you like to do on a free day?",
    "I would like to try that. Where do I begin?",
)
# Of the dialogue that is shown.
MAX_SHOWN_TOKENS = 160


def compare_before_after(job: Job, console: Console) -> int:
    """Prints a dialogue with its loss weights, and what the model said before and after; writes nothing."""
    say, config = make_printer(console), job.config
    if not config.model.adapter.is_lora:
        raise ConfigError(
            ["mode=before_after: of a run with model/adapter=lora, which keeps the model that it began with"]
        )
    run = config.saved_run
    device = select_device(config)
    configure_torch(config.deterministic)
    with hold_checkpoint(run, config.load_model_type) as checkpoint:
        after, tokenizer = load_saved_model(run / checkpoint, config, device, say)
        before = load_base_model(run / checkpoint, config, tokenizer, device, say)
    held_out = tokenize_split(config, load_dialogues(config, "validation", say), tokenizer, say)
    _show_dialogue(console, config, held_out, tokenizer)
    models = {"before": before, "after": after}
    print_tables(console, [_compare_losses(config, held_out, models)])
    print_texts(console, _compare_replies(config, tokenizer, models))
    return 0


def _show_dialogue(console: Console, config: Config, split: Split, tokenizer: DialogueTokenizer) -> None:
    """A short held-out sequence, with the loss weight of each span at the start and after the last change of the mask."""
    mask = build_mask(config)
    timeline = build_timeline(mask, config.planned_steps)
    progress = sorted({0.0, timeline.progress(timeline.final_from_step)})
    points = tuple(map(mask.weigh_roles, progress))
    short = np.flatnonzero(split.tokens.lengths <= MAX_SHOWN_TOKENS)
    index = int(short[np.argmax(split.tokens.lengths[short])]) if len(short) else int(np.argmin(split.tokens.lengths))
    columns, spans = split.tokens.columns([index])
    ids = columns.tolist()
    sequence = describe_sequence(ids, tokenizer.pieces(ids), spans, mask, timeline, points, True)
    name = split.dialogues.rows[int(split.tokens.dialogues[index])]["id"]
    print_sequence(console, {"id": name, "part": 1, "parts": 1} | sequence, progress, points)


def _compare_losses(config: Config, split: Split, models: dict[str, PreTrainedModel]) -> TextTable:
    """Perplexity by role of both models, on the same tokens."""
    sums = {}
    for name, model in models.items():
        losses = measure_held_out_losses(model, split.tokens, max_tokens=config.forward_tokens)
        assert losses is not None  # nothing stops it
        sums[name] = losses.by_dialogue.sum(0)
    rows = []
    for role in (Role.ASSISTANT, Role.USER):
        tokens = int(sums["before"][role][1])
        values = [math.exp(sums[name][role][0] / tokens) if tokens else math.nan for name in models]
        rows.append([role.name.lower(), f"{tokens:,}", *(f"{value:.2f}" for value in values)])
    title = f"Perplexity on {len(split.dialogues):,} held-out dialogues, the same tokens"
    return TextTable(title, ["turns of", "tokens", *models], rows)


def _compare_replies(config: Config, tokenizer: DialogueTokenizer, models: dict[str, PreTrainedModel]) -> TextTable:
    """Both models in a conversation of their own, with the same lines of the user."""
    decoding, limit = build_decoding(config.chat.generation), longest_chat_reply(config)
    replies = []
    for model in models.values():
        conversation, said = Conversation(tokenizer, window=config.model.max_len, max_new_tokens=limit), []
        for turn, line in enumerate(LINES):
            context, seed = conversation.ask(line), derive_seed("before_after", config.seed, turn)
            reply = stream_reply(
                model, tokenizer, context, lambda text: None, decoding=decoding, seed=seed, max_new_tokens=limit
            )
            conversation.answer(reply)
            said.append(" ".join(reply.split()) or "(no reply)")
        replies.append(said)
    rows = [list(row) for row in zip(LINES, *replies, strict=True)]
    return TextTable(f"A conversation, {decoding.text()}", ["you", *models], rows)
