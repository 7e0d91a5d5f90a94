"""mode=validate: losses, replies and scores of a checkpoint on one split, with what is needed to read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dialog_trainer import __version__, computing, experiment, leak_guard
from dialog_trainer.data.tables import DialogueTable
from dialog_trainer.distributed import group
from dialog_trainer.errors import CheckpointError, DataError
from dialog_trainer.evaluation.assessment import (
    Statistics,
    compared,
    depths,
    part,
    statistics_of,
    with_intervals,
)
from dialog_trainer.evaluation.baselines import BASELINES, FROM_TRAINING, against_the_others, baselines
from dialog_trainer.evaluation.replies import drawn
from dialog_trainer.evaluation.validation import Validation
from dialog_trainer.experiment import Say, Split
from dialog_trainer.job import Job
from dialog_trainer.metrics.loss import PERPLEXITIES
from dialog_trainer.metrics.scores import scores_of_parts
from dialog_trainer.modes import scored_files
from dialog_trainer.modes.scoring import replying, signature, validated
from dialog_trainer.options import Settings
from dialog_trainer.records import Context, Reply
from dialog_trainer.reports.lines import losses_text, sample_lines, speaker
from dialog_trainer.reports.mask_text import print_tables
from dialog_trainer.reports.progress import RunProgress
from dialog_trainer.reports.score_report import depth_table, difference_table, draw_by_depth, markdown, score_table
from dialog_trainer.training import checkpoint
from dialog_trainer.training.stop_signal import StopSignal


def run(job: Job, console: Console) -> int:
    say, settings = speaker(console), job.settings
    folder, split, metrics = Path(settings["resume_model_dir"]), settings["split"], settings["metrics"]
    weights = checkpoint.find(folder, settings["load_model_type"])
    state = checkpoint.read_state(weights)
    say(
        f"validating {folder}/weights/{checkpoint.LINKS[settings['load_model_type']]} (step {state['step']:,}) on split {split}"
    )
    for key, before, after in job.changes:
        say(f"  {key}: {before} -> {after}")
    with group.once_a_machine():
        dialogues = experiment.dialogues(settings, split, say)
        training = _training(settings, say)
    other = _other(settings, dialogues)
    on = computing.device(settings)
    computing.set_up_torch(settings["deterministic"])
    model, tokenizer = experiment.saved_model(weights, settings, on, say)
    with group.once_a_machine():
        data = experiment.with_tokens(settings, dialogues, tokenizer)
    group.check_alike(
        {"data": dialogues.digest, "weights": experiment.weights_digest(model)}, "give all the same files"
    )
    with StopSignal() as stop, RunProgress(console, start=0, steps=0) as progress:
        stopped = lambda: group.stop_seen(stop.requested())  # noqa: E731
        result = validated(settings, model, tokenizer, data, stage=progress.stage, stopped=stopped)
    if result is None:
        say("interrupted: no scores were written")
        return int(group.largest(stop.exit_code))
    if not group.is_main():
        return 0
    for line in sample_lines(result.samples(settings["prediction_print_n"])):
        say(line)
    # By `original` only the perplexities are values of sums by dialogue.
    summed = [name for name in metrics["names"] if metrics["protocol"] != "original" or name in PERPLEXITIES]
    statistics = statistics_of(summed, result.replies, dialogues.rows["id"], result.loss_sums)
    scored = {"checkpoint": f"{folder.name}/weights/{weights.name}", "step": state["step"], "split": split}
    scored |= _scored(settings, data, training, result, statistics, say)
    scored["mask_digest"] = state.get("digest")
    if other:
        theirs, sums = other
        scored["compared"] = {
            "with": theirs["checkpoint"],
            "signature": theirs["signature"],
            "same_signature": theirs["signature"] == scored["signature"],
            "differences": compared(metrics["names"], statistics, sums),
        }
    _tell(console, scored, result, statistics, folder / "validation" / split / metrics["protocol"], settings)
    return 0


def _training(settings: Settings, say: Say) -> DialogueTable | None:
    """The training split, from which baselines and leaks come; without it there are none of them."""
    if settings["split"] == "train":
        return None
    try:
        return experiment.dialogues(settings, "train", say)
    except (DataError, OSError) as error:
        say(f"note: no baselines from training replies and no look for leaks: {error}")
        return None


def _scored(
    settings: Settings, data: Split, training: DialogueTable | None, made: Validation, statistics: Statistics, say: Say
) -> dict:
    """What `scores.json` holds beside its origin."""
    names, original = settings["metrics"]["names"], settings["metrics"]["protocol"] == "original"
    ids = set(data.dialogues.rows["id"])
    clean_ids = ids
    if training is not None:
        found = leak_guard.leaks_between(settings, training, data.dialogues)
        say(found.summary(settings["split"]))
        clean_ids = ids - {data.dialogues.rows[index]["id"] for index in found.widest().held_out}
    beside = {}
    for name, replies in ({} if original else _baselines(data.dialogues, training, made.replies, say)).items():
        clean = [index for index, reply in enumerate(replies) if reply.dialogue_id in clean_ids]
        beside[name] = scores_of_parts(names, replies, {"all": range(len(replies)), "clean": clean})
    clean = None
    if clean_ids != ids and not original:
        clean = part(names, made.replies, statistics, clean_ids)
        clean["baselines"] = {name: scores["clean"] for name, scores in beside.items()}
    return {
        "protocol": settings["metrics"]["protocol"],
        "signature": signature(settings, data, made),
        "version": __version__,
        "data": data.dialogues.digest,
        "validation_loss": made.loss,
        "losses": made.losses,
        "dialogues": made.num_replied,
        "replies": len(made.replies),
        "scores": with_intervals(made.scores, statistics),
        "baselines": {name: scores["all"] for name, scores in beside.items()},
        "clean": clean,
        "by_depth": [] if original else depths(names, made.replies),
    }


def _baselines(
    dialogues: DialogueTable, training: DialogueTable | None, replies: Sequence[Reply], say: Say
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
        made = baselines(wanted, contexts, roles, each)
    except DataError as error:
        say(f"note: no baselines from training replies: {error}")
        made = baselines([name for name in wanted if name not in FROM_TRAINING], contexts, roles, ())
    if several:  # what `human` is to be read against
        made["model (as human)"] = against_the_others(replies)
    return made


def _other(settings: Settings, dialogues: DialogueTable) -> tuple[dict, Statistics] | None:
    """The scores of the run to compare with. Raises `CheckpointError` where they are of other dialogues, or not there."""
    if settings["compare_with"] is None:
        return None
    protocol = settings["metrics"]["protocol"]
    place = Path(settings["compare_with"])
    if not (place / scored_files.SCORES).is_file():
        place = place / "validation" / settings["split"] / protocol
    other, statistics = scored_files.read(place)
    if (other["split"], other["protocol"], other["data"]) != (settings["split"], protocol, dialogues.digest):
        raise CheckpointError(
            f"compare_with={place}: those scores are of split {other['split']} by protocol {other['protocol']}, of data "
            f"{other['data'][:12]}; these would be of {settings['split']}, {protocol}, {dialogues.digest[:12]}"
        )
    asked, found = _who_replies(replying(settings).signature()), _who_replies(other["signature"])
    if asked != found:
        raise CheckpointError(
            f"compare_with={place}: those replies are other turns of the dialogues ({found} instead of {asked}): pass "
            "mask_schedule.trained_role as in that run"
        )
    ours = len(drawn(dialogues, settings["metrics"]["max_dialogues"]))
    if other["dialogues"] != ours:
        raise CheckpointError(
            f"compare_with={place}: those scores are of {other['dialogues']:,} dialogues; these would be of {ours:,}: "
            f"pass metrics.max_dialogues={other['dialogues']}"
        )
    return other, statistics


def _who_replies(signature: str) -> str:
    return next((part for part in signature.split("|") if part.startswith("role:")), "role:all")


def _tell(
    console: Console, scored: dict, result: Validation, statistics: Statistics, place: Path, settings: Settings
) -> None:
    """Prints what was found and writes it into the run."""
    say = speaker(console)
    tables = [score_table("Scores", scored)]
    if scored["clean"]:
        clean = scored["clean"]
        title = (
            f"Without the dialogues that also stand in the training split ({clean['dialogues']:,} dialogues are left)"
        )
        tables.append(score_table(title, clean))
    if scored["by_depth"]:
        tables.append(depth_table(scored))
    size = len(result.loss_sums)
    notes = [
        f"{scored['replies']:,} replies in {scored['dialogues']:,} dialogues"
        + (f" (metrics.max_dialogues=null: in all {size:,})." if scored["dialogues"] < size else "."),
        f"Loss {result.loss:.4f}: {losses_text(result.losses)}.",
        f"How: {scored['signature']}",
    ]
    if not scored["replies"]:
        notes.append("No reply was asked for: no dialogue has a later turn of the role that replies.")
    if "compared" in scored:
        tables.append(difference_table(scored["compared"]))
        if not scored["compared"]["same_signature"]:
            notes.append(f"Compared with scores that were made in another way: {scored['compared']['signature']}")
        missing = [name for name in scored["scores"] if name not in scored["compared"]["differences"]]
        if missing:
            notes.append(f"Not compared, having no sums over the same dialogues (two or more): {', '.join(missing)}")
    print_tables(console, tables)
    for note in notes:
        say(note)
    earlier = scored_files.set_aside(place, scored)
    if earlier:
        say(f"the scores of another checkpoint, or made in another way, that were in {place} are in {earlier} now")
    place.mkdir(parents=True, exist_ok=True)
    scored_files.write(place, scored, result.replies, statistics, markdown(scored, notes, tables))
    if scored["by_depth"]:
        draw_by_depth(place / "by_depth.png", scored, settings["metrics"]["names"])
    say(f"written to {place}")
