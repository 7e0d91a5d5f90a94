"""Sources of dialogues, one file each. The dotted names of the built-in ones stand in saved runs as `_target_`."""

from dialog_trainer.data.sources.chitchat import ChitChat
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.data.sources.jsonl import Jsonl

__all__ = ["ChitChat", "DailyDialog", "Jsonl"]
