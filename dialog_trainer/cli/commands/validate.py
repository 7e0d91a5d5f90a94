"""mode=validate: losses, replies and scores of a checkpoint on one split, with what is needed to read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dialog_trainer import __version__
from dialog_trainer.build.data import Split, load_dialogues, measure_contamination, tokenize_split
from dialog_trainer.build.evaluation import build_reply_settings, build_signature, run_validation
from dialog_trainer.build.model import digest_weights, load_saved_model
from dialog_trainer.build.runtime import configure_torch, select_device
from dialog_trainer.config.job import Job
from dialog_trainer.config.options import Settings
from dialog_trainer.data.dataset import DialogueDataset
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import CheckpointError, DataError
from dialog_trainer.evaluation.analysis import (
    Statistics,
    add_intervals,
    collect_statistics,
    compare_scores,
    score_by_depth,
    score_subset,
)
from dialog_trainer.evaluation.baselines import BASELINES, FROM_TRAINING, drop_human_reference, make_baselines
from dialog_trainer.evaluation.contexts import sample_dialogues
from dialog_trainer.evaluation.evaluator import ValidationResult
from dialog_trainer.evaluation.results import SCORES_FILE, archive_scores, read_scores, write_scores
from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.metrics.registry import score_parts
from dialog_trainer.reporting.console import format_losses, make_printer, sample_lines
from dialog_trainer.reporting.progress import RunProgress
from dialog_trainer.reporting.score_tables import (
    build_depth_table,
    build_difference_table,
    build_score_table,
    draw_by_depth,
    render_markdown,
)
from dialog_trainer.reporting.terminal import print_tables
from dialog_trainer.training.checkpoint import LINKS, find_checkpoint, read_state
from dialog_trainer.training.signals import StopSignal
from dialog_trainer.types import Context, Reply, Say


def validate_run(job: Job, console: Console) -> int:
    say, settings = make_printer(console), job.settings
    folder, split, metrics = Path(settings["resume_model_dir"]), settings["split"], settings["metrics"]
    weights = find_checkpoint(folder, settings["load_model_type"])
    state = read_state(weights)
    say(f"validating {folder}/weights/{LINKS[settings['load_model_type']]} (step {state['step']:,}) on split {split}")
    for key, before, after in job.changes:
        say(f"  {key}: {before} -> {after}")
    with collectives.local_rank0_first():
        dialogues = load_dialogues(settings, split, say)
        training = _training(settings, say)
    other = _other(settings, dialogues)
    on = select_device(settings)
    configure_torch(settings["deterministic"])
    model, tokenizer = load_saved_model(weights, settings, on, say)
    with collectives.local_rank0_first():
        data = tokenize_split(settings, dialogues, tokenizer)
    collectives.assert_same_on_all_ranks(
        {"data": dialogues.digest, "weights": digest_weights(model)}, "give all the same files"
    )
    with StopSignal() as stop, RunProgress(console, start=0, steps=0) as progress:
        stopped = lambda: collectives.stop_seen(stop.requested())  # noqa: E731
        result = run_validation(settings, model, tokenizer, data, stage=progress.stage, stopped=stopped)
    if result is None:
        say("interrupted: no scores were written")
        return int(collectives.all_reduce_max(stop.exit_code))
    if not collectives.is_rank0():
        return 0
    for line in sample_lines(result.samples(settings["prediction_print_n"])):
        say(line)
    # By `original` only the perplexities are values of sums by dialogue.
    summed = [name for name in metrics["names"] if metrics["protocol"] != "original" or name in PERPLEXITIES]
    statistics = collect_statistics(summed, result.replies, dialogues.rows["id"], result.loss_sums)
    scored = {"checkpoint": f"{folder.name}/weights/{weights.name}", "step": state["step"], "split": split}
    scored |= _scored(settings, data, training, result, statistics, say)
    scored["mask_digest"] = state.get("digest")
    if other:
        theirs, sums = other
        scored["compared"] = {
            "with": theirs["checkpoint"],
            "signature": theirs["signature"],
            "same_signature": theirs["signature"] == scored["signature"],
            "differences": compare_scores(metrics["names"], statistics, sums),
        }
    _tell(console, scored, result, statistics, folder / "validation" / split / metrics["protocol"], settings)
    return 0


def _training(settings: Settings, say: Say) -> DialogueDataset | None:
    """The training split, from which baselines and leaks come; without it there are none of them."""
    if settings["split"] == "train":
        return None
    try:
        return load_dialogues(settings, "train", say)
    except (DataError, OSError) as error:
        say(f"note: no baselines from training replies and no look for leaks: {error}")
        return None


def _scored(
    settings: Settings,
    data: Split,
    training: DialogueDataset | None,
    made: ValidationResult,
    statistics: Statistics,
    say: Say,
) -> dict:
    """What `scores.json` holds beside its origin."""
    names, original = settings["metrics"]["names"], settings["metrics"]["protocol"] == "original"
    ids = set(data.dialogues.rows["id"])
    clean_ids = ids
    if training is not None:
        found = measure_contamination(settings, training, data.dialogues)
        say(found.summary(settings["split"]))
        clean_ids = ids - {data.dialogues.rows[index]["id"] for index in found.widest().held_out}
    beside = {}
    for name, replies in ({} if original else _baselines(data.dialogues, training, made.replies, say)).items():
        clean = [index for index, reply in enumerate(replies) if reply.dialogue_id in clean_ids]
        beside[name] = score_parts(names, replies, {"all": range(len(replies)), "clean": clean})
    clean = None
    if clean_ids != ids and not original:
        clean = score_subset(names, made.replies, statistics, clean_ids)
        clean["baselines"] = {name: scores["clean"] for name, scores in beside.items()}
    return {
        "protocol": settings["metrics"]["protocol"],
        "signature": build_signature(settings, data, made),
        "version": __version__,
        "data": data.dialogues.digest,
        "validation_loss": made.loss,
        "losses": made.losses,
        "dialogues": made.num_replied,
        "replies": len(made.replies),
        "scores": add_intervals(made.scores, statistics),
        "baselines": {name: scores["all"] for name, scores in beside.items()},
        "clean": clean,
        "by_depth": [] if original else score_by_depth(names, made.replies),
    }


def _baselines(
    dialogues: DialogueDataset, training: DialogueDataset | None, replies: Sequence[Reply], say: Say
) -> dict[str, list[Reply]]:
    """Replies that no model made, at the places of `replies`, to what people said before them."""
    if not replies:
        return {}
    replied = {reply.dialogue_id for reply in replies}
    turns = {one: dialogues[index].turns for index, one in enumerate(dialogues.rows["id"]) if one in replied}
    contexts, roles = [], []
    for reply in replies:
        *before, turn = turns[reply.dialogue_id][: reply.turn_index + 1]
        history = tuple(one.text for one in before)
        # Without ids: a baseline reads text.
        contexts.append(Context(reply.dialogue_id, reply.turn_index, [], history, turn.text, turn.references))
        roles.append(turn.role)
    several = all(len(context.references) > 1 for context in contexts)
    left_out = (set(FROM_TRAINING) if training is None else set()) | (set() if several else {"human"})
    wanted = [name for name in BASELINES if name not in left_out]
    each = () if training is None else (training[index] for index in range(len(training)))
    try:
        made = make_baselines(wanted, contexts, roles, each)
    except DataError as error:
        say(f"note: no baselines from training replies: {error}")
        made = make_baselines([name for name in wanted if name not in FROM_TRAINING], contexts, roles, ())
    if several:  # what `human` is to be read against
        made["model (as human)"] = drop_human_reference(replies)
    return made


def _other(settings: Settings, dialogues: DialogueDataset) -> tuple[dict, Statistics] | None:
    """The scores of the run to compare with. Raises `CheckpointError` where they are of other dialogues, or not there."""
    if settings["compare_with"] is None:
        return None
    protocol = settings["metrics"]["protocol"]
    place = Path(settings["compare_with"])
    if not (place / SCORES_FILE).is_file():
        place = place / "validation" / settings["split"] / protocol
    other, statistics = read_scores(place)
    if (other["split"], other["protocol"], other["data"]) != (settings["split"], protocol, dialogues.digest):
        raise CheckpointError(
            f"compare_with={place}: those scores are of split {other['split']} by protocol {other['protocol']}, of data "
            f"{other['data'][:12]}; these would be of {settings['split']}, {protocol}, {dialogues.digest[:12]}"
        )
    asked, found = _who_replies(build_reply_settings(settings).signature()), _who_replies(other["signature"])
    if asked != found:
        raise CheckpointError(
            f"compare_with={place}: those replies are other turns of the dialogues ({found} instead of {asked}): pass "
            "mask_schedule.trained_role as in that run"
        )
    ours = len(sample_dialogues(dialogues, settings["metrics"]["max_dialogues"]))
    if other["dialogues"] != ours:
        raise CheckpointError(
            f"compare_with={place}: those scores are of {other['dialogues']:,} dialogues; these would be of {ours:,}: "
            f"pass metrics.max_dialogues={other['dialogues']}"
        )
    return other, statistics


def _who_replies(signature: str) -> str:
    return next((part for part in signature.split("|") if part.startswith("role:")), "role:all")


def _tell(
    console: Console, scored: dict, result: ValidationResult, statistics: Statistics, place: Path, settings: Settings
) -> None:
    """Prints what was found and writes it into the run."""
    say = make_printer(console)
    tables = [build_score_table("Scores", scored)]
    if scored["clean"]:
        clean = scored["clean"]
        title = (
            f"Without the dialogues that also stand in the training split ({clean['dialogues']:,} dialogues are left)"
        )
        tables.append(build_score_table(title, clean))
    if scored["by_depth"]:
        tables.append(build_depth_table(scored))
    size = len(result.loss_sums)
    notes = [
        f"{scored['replies']:,} replies in {scored['dialogues']:,} dialogues"
        + (f" (metrics.max_dialogues=null: in all {size:,})." if scored["dialogues"] < size else "."),
        f"Loss {result.loss:.4f}: {format_losses(result.losses)}.",
        f"How: {scored['signature']}",
    ]
    if not scored["replies"]:
        notes.append("No reply was asked for: no dialogue has a later turn of the role that replies.")
    if "compared" in scored:
        tables.append(build_difference_table(scored["compared"]))
        if not scored["compared"]["same_signature"]:
            notes.append(f"Compared with scores that were made in another way: {scored['compared']['signature']}")
        missing = [name for name in scored["scores"] if name not in scored["compared"]["differences"]]
        if missing:
            notes.append(f"Not compared, having no sums over the same dialogues (two or more): {', '.join(missing)}")
    print_tables(console, tables)
    for note in notes:
        say(note)
    earlier = archive_scores(place, scored)
    if earlier:
        say(f"the scores of another checkpoint, or made in another way, that were in {place} are in {earlier} now")
    place.mkdir(parents=True, exist_ok=True)
    write_scores(place, scored, result.replies, statistics, render_markdown(scored, notes, tables))
    if scored["by_depth"]:
        draw_by_depth(place / "by_depth.png", scored, settings["metrics"]["names"])
    say(f"written to {place}")
