"""Sources of dialogues, one file each; `protocol.py` says how to write one.

The dotted names of these classes are the `_target_` of saved runs: they must not change.
"""

from dialog_trainer.data.sources.chitchat import ChitChat
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.data.sources.files import Files
from dialog_trainer.data.sources.hub import Hub
from dialog_trainer.data.sources.mixture import Mixture

# Runs saved before there were other files have this name.
Jsonl = Files

__all__ = ["ChitChat", "DailyDialog", "Files", "Hub", "Jsonl", "Mixture"]
