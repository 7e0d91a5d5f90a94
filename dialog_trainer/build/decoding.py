"""How replies are generated, from the options of a validation or of a chat."""

from __future__ import annotations

from dialog_trainer.config.metrics_group import GenerationConfig
from dialog_trainer.config.schema import Config
from dialog_trainer.model.generation.sampling import Decoding


def build_decoding(options: GenerationConfig) -> Decoding:
    """How a token is chosen. Sampling at temperature 0 is greedy."""
    kind = "greedy" if options.decoding == "sample" and not options.temperature else options.decoding
    return Decoding(kind, options.temperature, options.top_p, options.beams)


def longest_chat_reply(config: Config) -> int:
    """Tokens of the longest reply of a chat: its own limit, else that of validations."""
    return config.chat.generation.max_new_tokens or config.metrics.generation.max_new_tokens or 1
