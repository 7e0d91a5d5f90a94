"""A tokenizer with the three dialogue tokens: `[CLS]` starts a dialogue, `[SEP]` ends a turn, `[PAD]` pads a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dialog_trainer.data.formatting import make_spans
from dialog_trainer.errors import ModelError
from dialog_trainer.files import sha256_of_texts
from dialog_trainer.types import Span, SpecialTokens

END_TOKEN = "<|endoftext|>"
# The chat template renders messages exactly as training lays out a dialogue; a generation prompt ends where the reply
# starts.
CHAT_TEMPLATE = (
    "{{ cls_token }}{% for message in messages %}{{ message['content'] | trim }}{{ sep_token }}{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)


class DialogueTokenizer:
    """Text to ids and back.

    Attributes:
        cls_id, sep_id, pad_id, end_id: ids of `[CLS]`, `[SEP]`, `[PAD]` and the end-of-text token.
        special_tokens: the four together.
        added_tokens: how many of the three dialogue tokens were new to the tokenizer.
        hf_tokenizer: the tokenizer of transformers, with the three tokens and the chat template.
    """

    def __init__(self, hf_tokenizer: PreTrainedTokenizerFast):
        if hf_tokenizer.eos_token_id is None:
            raise ModelError("this tokenizer has no end-of-text token: choose another model.pretrained_model")
        size = len(hf_tokenizer)
        hf_tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"})
        hf_tokenizer.chat_template = CHAT_TEMPLATE
        hf_tokenizer.padding_side = "left"  # as batched generation needs it
        self.hf_tokenizer = hf_tokenizer
        self.added_tokens = len(hf_tokenizer) - size
        self.cls_id, self.sep_id = hf_tokenizer.cls_token_id, hf_tokenizer.sep_token_id
        self.pad_id, self.end_id = hf_tokenizer.pad_token_id, hf_tokenizer.eos_token_id
        self.special_tokens = SpecialTokens(self.cls_id, self.sep_id, self.end_id, self.pad_id)
        # A copy that reads "[SEP]" or "<|endoftext|>" in a text as characters: a text must not end a turn.
        self._text_encoder = Tokenizer.from_str(hf_tokenizer.backend_tokenizer.to_str())
        self._text_encoder.encode_special_tokens = True
        # A tokenizer.json may ask for both, and a padded call of the tokenizer leaves them set.
        self._text_encoder.no_truncation()
        self._text_encoder.no_padding()

    @classmethod
    def pretrained(cls, name_or_folder: str) -> DialogueTokenizer:
        """The tokenizer of a hub id or folder. Raises `ModelError`."""
        try:
            hf_tokenizer = AutoTokenizer.from_pretrained(name_or_folder)
        except Exception as error:  # the hub's client raises many classes; all mean that it is not available
            raise loading_error(name_or_folder, error) from None
        if not isinstance(hf_tokenizer, PreTrainedTokenizerFast):
            raise ModelError(f"{name_or_folder}: its tokenizer has no fast (tokenizers) form; choose another model")
        return cls(hf_tokenizer)

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> DialogueTokenizer:
        """Learns a byte-level BPE vocabulary of at most `size` entries (plus the three dialogue tokens) from `texts`."""
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[END_TOKEN],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        hf_tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers does not annotate it
            tokenizer_object=tokenizer, eos_token=END_TOKEN, clean_up_tokenization_spaces=False
        )
        return cls(hf_tokenizer)

    def __len__(self) -> int:
        return len(self.hf_tokenizer)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        return [encoding.ids for encoding in self._text_encoder.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_turns(self, texts: Sequence[str], roles: Sequence[int], first_turn: int = 0) -> list[Span]:
        """The spans of consecutive turns of a dialogue, from turn `first_turn` on, each ended by `[SEP]`."""
        return make_spans(self.encode_batch(texts), roles, self.sep_id, first_turn)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, without special tokens."""
        return self._decode(list(ids), skip_special_tokens=True)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each id alone, special tokens by their names; a part of a character is shown as U+FFFD."""
        return [self._decode([token], clean_up_tokenization_spaces=False) for token in ids]

    def _decode(self, ids: list[int], **options: bool) -> str:
        text = self.hf_tokenizer.decode(ids, **options)
        assert isinstance(text, str)  # a list only for a batch of ids
        return text

    def digest(self) -> str:
        """A hash that changes when the result of `encode_batch` may change."""
        return sha256_of_texts(self._text_encoder.to_str())

    def save(self, folder: Path) -> None:
        """Writes the files of transformers' `save_pretrained`."""
        self.hf_tokenizer.save_pretrained(folder)


def loading_error(name_or_folder: str, error: Exception) -> ModelError:
    """The error for a model or tokenizer that cannot be loaded, with a remedy."""
    reason = str(error).strip().split("\n")[0]
    if Path(name_or_folder).is_dir():
        remedy = "the folder should hold what `save_pretrained` of transformers writes"
    else:
        remedy = "without a hub pass model.pretrained_model=<folder>, or model=gpt2_tiny, which is trained from scratch"
    return ModelError(f"{name_or_folder} could not be loaded ({type(error).__name__}: {reason}); {remedy}")
