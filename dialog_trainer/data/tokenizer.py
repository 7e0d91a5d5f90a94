"""A tokenizer with the three dialogue tokens: `[CLS]` starts a dialogue, `[SEP]` ends a turn, `[PAD]` pads a row."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dialog_trainer.data.formatting import make_spans
from dialog_trainer.data.gguf_header import check_gguf, is_gguf
from dialog_trainer.errors import ModelError
from dialog_trainer.files import sha256_of_texts, why_unreadable
from dialog_trainer.types import Span, SpecialTokens

END_TOKEN = "<|endoftext|>"
# Longer words (runs without a space, or of spaces) are cut to learn a vocabulary, which takes the square of their length.
MAX_WORD = 1_000
# Files of a tokenizer; the largest known one has 40 MB.
FILE_KINDS = {".json", ".jinja", ".model", ".tiktoken", ".txt"}
MAX_FILE_BYTES = 128 * 2**20
PRINTED_KEYS = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
# The largest known vocabularies have 260,000 entries; ids may have gaps.
MAX_ID = 10_000_000
# A tokenizer takes about a second for a million characters. The regular expressions of its file can take for ever.
SECONDS = 10
CHARACTERS_PER_SECOND = 20_000

T = TypeVar("T")
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
        notes: what had to be changed, or is unusual, each as a line.
        added_tokens: how many of the three dialogue tokens were new to the tokenizer.
        hf_tokenizer: the tokenizer of transformers, with the three tokens and the chat template.
    """

    def __init__(self, hf_tokenizer: PreTrainedTokenizerFast):
        if '"Regex"' in json.dumps(json.loads(hf_tokenizer.backend_tokenizer.to_str())["decoder"]):
            # To decode cannot be given up, unlike to encode.
            raise ModelError("this tokenizer decodes by a regular expression: choose another model.pretrained_model")
        largest = max(hf_tokenizer.get_vocab().values())
        if largest > MAX_ID:
            raise ModelError(f"this tokenizer has the token id {largest:,}: choose another model.pretrained_model")
        size = len(hf_tokenizer)
        hf_tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"})
        self.notes = _set_apart_end_token(hf_tokenizer)
        hf_tokenizer.chat_template = CHAT_TEMPLATE
        hf_tokenizer.padding_side = "left"  # as batched generation needs it
        # A copy that reads "[SEP]" or "<|endoftext|>" in a text as characters: a text must not end a turn.
        self._text_encoder = Tokenizer.from_str(hf_tokenizer.backend_tokenizer.to_str())
        if self._text_encoder.get_added_tokens_decoder() != hf_tokenizer.backend_tokenizer.get_added_tokens_decoder():
            # Where ids have gaps, added tokens get other ids once the tokenizer was saved: those are used from the start.
            hf_tokenizer._tokenizer = Tokenizer.from_str(hf_tokenizer.backend_tokenizer.to_str())
        self.hf_tokenizer = hf_tokenizer
        self.added_tokens = len(hf_tokenizer) - size
        self.cls_id, self.sep_id = hf_tokenizer.cls_token_id, hf_tokenizer.sep_token_id
        self.pad_id, self.end_id = hf_tokenizer.pad_token_id, hf_tokenizer.eos_token_id
        self.special_tokens = SpecialTokens(self.cls_id, self.sep_id, self.end_id, self.pad_id)
        self._text_encoder.encode_special_tokens = True
        # A tokenizer.json may ask for both, and a padded call of the tokenizer leaves them set.
        self._text_encoder.no_truncation()
        self._text_encoder.no_padding()

    @classmethod
    def pretrained(cls, name_or_folder: str) -> DialogueTokenizer:
        """The tokenizer of a hub id, a folder, a GGUF file or a checkpoint of the original program. Raises `ModelError`."""
        source, options = _find_tokenizer(name_or_folder)
        _check_files(Path(source))
        try:
            hf_tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
            if isinstance(hf_tokenizer, PreTrainedTokenizerFast):
                return cls(hf_tokenizer)
        except ModelError as error:
            raise ModelError(f"{name_or_folder}: {error}") from None
        except BaseException as error:  # the hub's client raises many classes; all mean that it is not available
            if isinstance(error, Exception) or _is_panic(error):
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

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens. Raises `ModelError` where the tokenizer of a stranger takes too long."""
        encodings = _run_in_time(
            lambda: self._text_encoder.encode_batch_fast(texts, add_special_tokens=False), sum(map(len, texts))
        )
        return [encoding.ids for encoding in encodings]

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


def _set_apart_end_token(hf_tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """Gives a tokenizer whose end-of-text token is missing, or pads or starts a dialogue, one of its own; says so."""
    end = hf_tokenizer.eos_token
    if end == "[SEP]":
        return (
            "the tokenizer's end-of-text token is [SEP], which ends each turn too: the end of a dialogue is no sign of its own",
        )
    if end not in (None, "[PAD]", "[CLS]"):
        return ()
    hf_tokenizer.add_special_tokens({"eos_token": END_TOKEN})
    why = (
        "has no end-of-text token" if end is None else f"has {end} as its end-of-text token, which has another use here"
    )
    return (f"the tokenizer {why}: {END_TOKEN} is added, and ends a dialogue",)


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


def _run_in_time(work: Callable[[], T], characters: int) -> T:
    """`work()`, given up where it takes far longer than so many characters need. It must release the GIL."""
    outcome: list[T | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # raised again below
            outcome.append(error)

    thread = threading.Thread(target=run, name="tokenizer", daemon=True)
    thread.start()
    for _ in range(SECONDS + characters // CHARACTERS_PER_SECOND):  # not one wait: a process that sleeps is not slow
        thread.join(1)
        if not thread.is_alive():
            break
    else:
        raise ModelError(
            f"the tokenizer has not finished {characters:,} characters in time: a regular expression of its tokenizer.json "
            "does not end on them; choose another model.pretrained_model"
        )
    if isinstance(outcome[0], BaseException):
        if _is_panic(outcome[0]):
            raise ModelError(
                f"the tokenizer failed ({outcome[0]}): its tokenizer.json is damaged, or has a regular expression that "
                "does not end; choose another model.pretrained_model"
            )
        raise outcome[0]
    return outcome[0]


def _is_panic(error: BaseException) -> bool:
    """Whether it is an error of the Rust code of tokenizers, which is no `Exception`."""
    return type(error).__name__ == "PanicException"


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
