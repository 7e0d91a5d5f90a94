"""The tokenizer of a model with its chat format: text to ids and back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dialog_trainer.data.chat_format import END_TOKEN, MakeFormat, SeparatorFormat
from dialog_trainer.data.gguf_header import check_gguf, is_gguf
from dialog_trainer.data.text_encoder import is_panic
from dialog_trainer.errors import ModelError
from dialog_trainer.files import why_unreadable
from dialog_trainer.types import SpecialTokens

# Longer words (runs without a space, or of spaces) are cut to learn a vocabulary, which takes the square of their length.
MAX_WORD = 1_000
# Files of a tokenizer; the largest known one has 40 MB.
FILE_KINDS = {".json", ".jinja", ".model", ".tiktoken", ".txt"}
MAX_FILE_BYTES = 128 * 2**20
PRINTED_KEYS = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
# The largest known vocabularies have 260,000 entries; ids may have gaps.
MAX_ID = 10_000_000


class DialogueTokenizer:
    """Text to ids and back.

    Attributes:
        chat_format: how dialogues are laid out. The separator format adds `[CLS]`, which starts a dialogue, `[SEP]`, which
            ends a turn, and `[PAD]` to the tokenizer.
        start_id, end_id, pad_id: ids of the token that starts a text (None: there is none), of the end-of-text token
            and of padding.
        new_token_ids: ids of the tokens that the format added to the tokenizer, ascending; `added_tokens` counts them.
        hf_tokenizer: the tokenizer of transformers, with these tokens and the template of the chat format.
    """

    def __init__(self, hf_tokenizer: PreTrainedTokenizerFast, make_format: MakeFormat = SeparatorFormat):
        """Raises `ModelError`."""
        if '"Regex"' in json.dumps(json.loads(hf_tokenizer.backend_tokenizer.to_str())["decoder"]):
            # To decode cannot be given up, unlike to encode.
            raise ModelError("this tokenizer decodes by a regular expression: choose another model.pretrained_model")
        known = hf_tokenizer.get_vocab()
        largest = max(known.values())
        if largest > MAX_ID:
            raise ModelError(f"this tokenizer has the token id {largest:,}: choose another model.pretrained_model")
        self.chat_format = make_format(hf_tokenizer)
        hf_tokenizer.padding_side = "left"  # as batched generation needs it
        description = hf_tokenizer.backend_tokenizer.to_str()
        if self.chat_format.encoder.added_tokens() != hf_tokenizer.backend_tokenizer.get_added_tokens_decoder():
            # Where ids have gaps, added tokens get other ids once the tokenizer was saved: those are used from the start.
            hf_tokenizer._tokenizer = Tokenizer.from_str(description)
        self.hf_tokenizer = hf_tokenizer
        self.new_token_ids = sorted(index for token, index in hf_tokenizer.get_vocab().items() if token not in known)
        self.added_tokens = len(self.new_token_ids)
        self.start_id = hf_tokenizer.cls_token_id if self.has_dialogue_tokens else hf_tokenizer.bos_token_id
        end, pad = hf_tokenizer.eos_token_id, hf_tokenizer.pad_token_id
        self.end_id = self.chat_format.ends[0] if end is None else end
        self.pad_id = self.end_id if pad is None else pad

    @property
    def has_dialogue_tokens(self) -> bool:
        """Whether the chat format is that of `[CLS]` and `[SEP]`."""
        return isinstance(self.chat_format, SeparatorFormat)

    @property
    def special_tokens(self) -> SpecialTokens:
        """The tokens of the separator format."""
        assert isinstance(self.chat_format, SeparatorFormat)
        return self.chat_format.special_tokens

    @classmethod
    def pretrained(cls, name_or_folder: str, make_format: MakeFormat = SeparatorFormat) -> DialogueTokenizer:
        """The tokenizer of a hub id, a folder, a GGUF file or a checkpoint of the original program. Raises `ModelError`."""
        source, options = _find_tokenizer(name_or_folder)
        _check_files(Path(source))
        try:
            hf_tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
            if isinstance(hf_tokenizer, PreTrainedTokenizerFast):
                return cls(hf_tokenizer, make_format)
        except ModelError as error:
            raise ModelError(f"{name_or_folder}: {error}") from None
        except BaseException as error:  # the hub's client raises many classes; all mean that it is not available
            if isinstance(error, Exception) or is_panic(error):
                raise loading_error(name_or_folder, error) from None
            raise
        raise ModelError(f"{name_or_folder}: its tokenizer has no fast (tokenizers) form; choose another model")

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
        tokenizer.train_from_iterator((part for text in texts for part in cut_long_words(text)), trainer)
        hf_tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers does not annotate it
            tokenizer_object=tokenizer, eos_token=END_TOKEN, clean_up_tokenization_spaces=False
        )
        return cls(hf_tokenizer)

    def __len__(self) -> int:
        return len(self.hf_tokenizer)

    @property
    def unknown_id(self) -> int | None:
        """The id that stands for texts which the vocabulary does not have; None where it has every text."""
        unknown = self.hf_tokenizer.unk_token_id
        return None if unknown == self.end_id else unknown  # GPT-2's is its end, and never occurs

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens. Raises `ModelError` where the tokenizer of a stranger takes too long."""
        return self.chat_format.encoder.encode(texts)

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
        """A hash that changes when ids of a text, or the layout of a dialogue, may change."""
        return self.chat_format.digest()

    def save(self, folder: Path) -> None:
        """Writes the files of transformers' `save_pretrained`."""
        self.hf_tokenizer.save_pretrained(folder)


def cut_long_words(text: str) -> Iterator[str]:
    """The text; or, if it has words of more than `MAX_WORD` characters, its parts, cut in those words."""
    start = 0
    for word in re.finditer(r"\S+|\s+", text) if len(text) > MAX_WORD else ():
        for cut in range(word.start() + MAX_WORD, word.end(), MAX_WORD):
            yield text[start:cut]
            start = cut
    yield text[start:]


def _find_tokenizer(name_or_path: str) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` of transformers gets for the tokenizer of a model."""
    path = Path(name_or_path)
    if is_gguf(name_or_path):
        check_gguf(path)
        return str(path.parent), {"gguf_file": path.name}
    if path.suffix == ".pt":  # it holds none: that of GPT-2, here or on the hub
        return str(path.parent) if (path.parent / "tokenizer.json").is_file() else "gpt2", {}
    return name_or_path, {}


def _check_files(folder: Path) -> None:
    """Raises `ModelError` for files of a tokenizer that are huge, or no files."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix in FILE_KINDS:
            problem = why_unreadable(path)
            if problem is None and path.stat().st_size > MAX_FILE_BYTES:
                problem = f"is larger than {MAX_FILE_BYTES // 2**20} MiB"
            if problem is None and path.name in PRINTED_KEYS:
                problem = _find_control_characters(path)
            if problem:
                raise ModelError(f"{path} {problem}: it is no tokenizer or model; choose another folder")


def _find_control_characters(path: Path) -> str | None:
    """What is wrong with the keys of a JSON file: tokenizers prints those that it does not know as they are."""
    keys: list[str] = []
    try:
        json.loads(path.read_bytes(), object_pairs_hook=lambda pairs: keys.extend(key for key, _ in pairs))
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({error})"
    return None if all(map(str.isprintable, keys)) else "has keys with control characters"


def loading_error(name_or_folder: str, error: BaseException) -> ModelError:
    """The error for a model or tokenizer that cannot be loaded, with a remedy."""
    reason = str(error).strip().split("\n")[0]
    if Path(name_or_folder).is_dir():
        remedy = "the folder should hold what `save_pretrained` of transformers writes for a causal language model"
    elif Path(name_or_folder).is_file():
        remedy = "pass another file, or the folder of the model in its Hugging Face form"
    else:
        remedy = "without a hub pass model.pretrained_model=<folder>, or model=gpt2_tiny, which is trained from scratch"
    return ModelError(f"{name_or_folder} could not be loaded ({type(error).__name__}: {reason}); {remedy}")
