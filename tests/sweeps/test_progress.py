"""The lines of a sweep while its jobs run."""

import io

from rich.console import Console

from dialog_trainer.sweeps.processes import read_notes
from dialog_trainer.sweeps.progress import SweepProgress

LOG = """importing torch and transformers ...
note: {name} is slow
validation: 3 dialogues
split      role            turns
step 1/40  loss 5.8
note: \x1b[2J
validation: 3 dialogues
"""


def test_a_note_is_shown_once_with_its_first_job(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    progress = SweepProgress(console, 1)
    for job, name in (("000-a", "x"), ("001-b", "x"), ("002-c", "y"), ("003-d", "no log")):
        if name != "no log":
            (tmp_path / job).write_text(LOG.format(name=name))
        progress.notes(job, read_notes(tmp_path, job))
    assert console.file.getvalue().splitlines() == [
        "notes of 000-a; of later jobs only new ones follow:",
        "  note: x is slow",
        "  validation: 3 dialogues",
        r"  note: \x1b[2J",
        "new notes of 002-c:",
        "  note: y is slow",
    ]
