"""mode=validate: scores a checkpoint on one split and writes the scores into its run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dialog_trainer import __version__
from dialog_trainer.build.data import Split, load_dialogues, measure_contamination, tokenize_split
from dialog_trainer.build.evaluation import (
    build_protocol,
    build_signature,
    digest_request,
    known_metrics,
    resolve_word_tokenizer,
    run_validation,
    select_metrics,
)
from dialog_trainer.build.mask_check import is_training_data
from dialog_trainer.build.model import digest_weights, load_saved_model
from dialog_trainer.build.runtime import configure_torch, select_device
from dialog_trainer.config.job import Job
from dialog_trainer.config.schema import Config
from dialog_trainer.data.dataset import DialogueDataset
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import DataError
from dialog_trainer.evaluation.analysis import (
    Statistics,
    add_intervals,
    analyze_scores,
    collect_statistics,
    compare_scores,
    mean_words,
)
from dialog_trainer.evaluation.baselines import make_baselines_for
from dialog_trainer.evaluation.contexts import sample_dialogues
from dialog_trainer.evaluation.evaluator import ValidationResult
from dialog_trainer.evaluation.progress import Progress
from dialog_trainer.evaluation.results import (
    archive_scores,
    describe_dialogues,
    has_scores,
    read_comparable_scores,
    write_scores,
)
from dialog_trainer.metrics.registry import Metrics
from dialog_trainer.reporting.console import describe_checkpoint, make_printer, print_samples
from dialog_trainer.reporting.progress import RunProgress
from dialog_trainer.reporting.score_tables import render_markdown
from dialog_trainer.reporting.terminal import RunConsole, print_tables
from dialog_trainer.reporting.validation_report import build_notes, build_tables
from dialog_trainer.signals import StopSignal
from dialog_trainer.tracking.run_directory import open_log
from dialog_trainer.training.checkpoint_directory import hold_checkpoint
from dialog_trainer.training.saved_state import SavedState, read_state
from dialog_trainer.types import Say

OtherScores = tuple[dict[str, Any], Statistics]


def validate_run(job: Job, console: RunConsole) -> int:
    log, config = make_printer(console), job.config
    run, split = config.saved_run, config.split
    with ExitStack() as hold:
        checkpoint = collectives.broadcast_from_rank0(
            lambda: hold.enter_context(hold_checkpoint(run, config.load_model_type))
        )
        state = read_state(run, checkpoint)
        log(f"validating split {split} of {run}")
        log(describe_checkpoint(run, checkpoint, config.load_model_type, state))
        for key, before, after in job.changes:
            log(f"  {key}: {before} -> {after}")
        with collectives.local_rank0_first():
            dialogues = load_dialogues(config, split, log)
            training = _load_training(config, log)
        config = resolve_word_tokenizer(config, dialogues, log)
        request = digest_request(config, state.step, dialogues.digest)
        place = f"validation/{split}/{config.metrics.protocol}"
        if config.runs and has_scores(run, place, {"request": request}):
            log(f"{run / place} has these scores already: skipped")
            return 0
        for line in _compare_data(config, dialogues, training, state):
            log(line)
        other = _read_other_scores(config, dialogues)
        device = select_device(config)
        configure_torch(config.deterministic)
        model, tokenizer = load_saved_model(run / checkpoint, config, device, log)
        with collectives.local_rank0_first():
            data = tokenize_split(config, dialogues, tokenizer, log)
        collectives.assert_same_on_all_ranks(
            {"data": dialogues.digest, "weights": digest_weights(model)}, "give all the same files"
        )
    with ExitStack() as logged:
        if collectives.is_rank0():
            logged.enter_context(console.log_to(open_log(run, "validate", 0, collectives.world_size())))
        stop = logged.enter_context(StopSignal())
        stop_requested = lambda: collectives.stop_seen(stop.requested())  # noqa: E731
        with RunProgress(console, start=0, steps=0, stop_requested=stop_requested) as progress:
            result = run_validation(config, model, tokenizer, data, progress)
        if result is None:
            log("interrupted: no scores were written")
            return int(collectives.all_reduce_max(stop.exit_code))
        if collectives.is_rank0():
            _report(console, config, state, data, training, other, result)
    return 0


def _report(
    console: RunConsole,
    config: Config,
    state: SavedState,
    data: Split,
    training: DialogueDataset | None,
    other: OtherScores | None,
    result: ValidationResult,
) -> None:
    """Analyzes a validation, prints it and writes it into the run."""
    log, run, split = make_printer(console), config.saved_run, config.split
    folder = f"validation/{split}/{config.metrics.protocol}"
    print_samples(console, result.samples(config.prediction_print_n), run / folder / "replies.jsonl")
    metrics = select_metrics(config)
    summed = build_protocol(config).summed_metrics(metrics)
    ids = data.dialogues.rows.column("id")
    clean_ids = None if training is None else _find_clean_ids(config, training, data.dialogues, log)
    statistics = collect_statistics(summed, result.replies, ids, result.loss_sums)
    scored: dict[str, Any] = {
        "checkpoint": f"{_name_run(run)}/weights/step-{state.step:08d}",
        "step": state.step,
        "split": split,
        "request": digest_request(config, state.step, data.dialogues.digest),
    }
    with RunProgress(console, start=0, steps=0) as progress:
        scored |= _analyze(config, data, training, clean_ids, result, statistics, progress, log)
        scored["mask_digest"] = state.digest
        if other:
            scored["compared"] = _compare(metrics, scored["signature"], statistics, other, progress)
    facts = describe_dialogues(ids, result.role_sums, clean_ids)
    _publish(console, scored, metrics, result, statistics, facts, run, folder)
    if scored["by_depth"] and config.figures.enabled:
        from dialog_trainer.cli.commands.figures import draw_by_depth  # imports matplotlib

        draw_by_depth(run, folder, config, scored)
    log(f"written to {run / folder}")
    if config.figures.enabled:
        from dialog_trainer.cli.commands.report import report_run  # imports the report

        report_run(run, log)


def _compare_data(
    config: Config, dialogues: DialogueDataset, training: DialogueDataset | None, state: SavedState
) -> list[str]:
    """Notes on data that are not those of the run."""
    lines = []
    if config.split == "validation" and dialogues.digest != state.held_out:
        lines.append(
            "note: these are not the validation dialogues of the training: its losses and scores are of others"
        )
    if training is not None and not config.data.drop_leaks and not is_training_data(training, state.digest):
        lines.append(
            "note: the training split is read from other files than in the training: contamination and baselines are of "
            "these; to see what the run was trained on, name its own training and validation files"
        )
    return lines


def _name_run(run: Path) -> str:
    """The name of a run; of a job of a sweep, which is a number, with that of the sweep."""
    path = run.resolve()
    return f"{path.parent.name}/{path.name}" if path.name.isdecimal() else path.name


def _load_training(config: Config, log: Say) -> DialogueDataset | None:
    """The training split, for baselines and contamination; None where it is validated itself or cannot be read."""
    if config.split == "train":
        return None
    try:
        return load_dialogues(config, "train", log)
    except (DataError, OSError) as error:
        log(f"note: no baselines from training replies and no contamination check: {error}")
        return None


def _read_other_scores(config: Config, dialogues: DialogueDataset) -> OtherScores | None:
    """The scores of `compare_with`. Raises `CheckpointError` if they do not fit those that this validation will make."""
    if config.compare_with is None:
        return None
    expected = {
        "split": config.split,
        "protocol": config.metrics.protocol,
        "data": dialogues.digest,
        "dialogues": len(sample_dialogues(dialogues, config.metrics.max_dialogues)),
        "signature": build_protocol(config).signature(),
    }
    return read_comparable_scores(Path(config.compare_with), expected, known_metrics(config))


def _find_clean_ids(config: Config, training: DialogueDataset, dialogues: DialogueDataset, log: Say) -> set[str] | None:
    """The dialogues that are not also in the training split; None where none is."""
    contamination = measure_contamination(config, training, dialogues, log)
    log(contamination.summary(config.split))
    ids = dialogues.rows.column("id")
    contaminated = {ids[index] for index in contamination.widest().held_out}
    return set(ids) - contaminated if contaminated else None


def _analyze(
    config: Config,
    data: Split,
    training: DialogueDataset | None,
    clean_ids: set[str] | None,
    result: ValidationResult,
    statistics: Statistics,
    progress: Progress,
    log: Say,
) -> dict[str, Any]:
    """The entries of scores.json that do not depend on the run."""
    entries = {
        "protocol": config.metrics.protocol,
        "signature": build_signature(config, data, result),
        "version": __version__,
        "data": data.dialogues.digest,
        "validation_loss": result.loss,
        "losses": result.losses,
        "dialogues": result.num_replied,
        "replies": len(result.replies),
        "words": None,
    }
    metrics = select_metrics(config)
    if build_protocol(config).has_turns:
        entries["words"] = mean_words(result.replies, config.metrics.tokenize)
        baselines = make_baselines_for(result.replies, data.dialogues, training, log, config.metrics.tokenize)
        return entries | analyze_scores(
            metrics, result.scores, result.replies, statistics, baselines, clean_ids, progress
        )
    progress.start("bootstrap of scores", len(metrics))
    scores = add_intervals(metrics, result.scores, statistics, progress)
    return entries | {"scores": scores, "baselines": {}, "clean": None, "by_depth": []}


def _compare(
    metrics: Metrics, signature: str, statistics: Statistics, other: OtherScores, progress: Progress
) -> dict[str, Any]:
    """The entry `compared` of scores.json: ours minus those of the other checkpoint."""
    scored, their_statistics = other
    progress.start("bootstrap of differences", len(metrics))
    return {
        "with": scored["checkpoint"],
        "signature": scored["signature"],
        "same_signature": scored["signature"] == signature,
        "differences": compare_scores(metrics, statistics, their_statistics, progress),
    }


def _publish(
    console: RunConsole,
    scored: Mapping[str, Any],
    metrics: Metrics,
    result: ValidationResult,
    statistics: Statistics,
    facts: Mapping[str, Mapping[str, Any]],
    run: Path,
    folder: str,
) -> None:
    """Prints the scores and writes them into the `folder` of the run."""
    log = make_printer(console)
    tables, notes = build_tables(scored), build_notes(scored, split_size=len(result.loss_sums))
    print_tables(console, tables)
    for note in notes:
        log(note)
    archive = archive_scores(run, folder, scored)
    if archive:
        log(f"{run / folder} held the scores of another checkpoint, or with another signature: moved to {archive}")
    page = render_markdown(scored, notes, tables)
    write_scores(run, folder, scored, metrics, result.replies, statistics, page, facts)
