"""A command: how many turns and words the dialogues have, by role."""

from collections import Counter

from rich.console import Console

from dialog_trainer import Command
from dialog_trainer.build.data import load_dialogues
from dialog_trainer.config.job import Job


def count_words(job: Job, console: Console) -> int:
    """Prints a line for each role; returns the exit code."""
    dialogues = load_dialogues(job.config, job.config.split, console.print)
    turns, words = Counter(), Counter()
    for index in range(len(dialogues)):
        for turn in dialogues[index].turns:
            turns[turn.role.name] += 1
            words[turn.role.name] += len(turn.text.split())
    for role, count in turns.items():
        console.print(f"{role.lower()}: {count:,} turns of {words[role] / count:.1f} words")
    return 0


command = Command("count_words", run=count_words)
