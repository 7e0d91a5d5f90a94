"""Reads a JSON document value by value, in bounded memory: an array, an object that holds rows, or one value after another."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from dialog_trainer.data.sources.reading import MAX_LINE_BYTES
from dialog_trainer.data.sources.row_errors import RowError

CHUNK_BYTES = 2**16
# How far before its end an incomplete number or word may be found to be wrong.
MAX_WORD = 32
_SPACE = re.compile(r"[ \t\r\n]*")


class TooLongError(RowError):
    """A value that is too long to be read as one."""


def _too_long() -> TooLongError:
    return TooLongError(f"a value is longer than {MAX_LINE_BYTES / 2**20:g} MiB; divide it into shorter dialogues")


def hint_at(text: str, error: json.JSONDecodeError) -> str:
    """What is often meant by a text that is not JSON, and what to write."""
    before, after = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if error.msg == "Extra data" and after.strip() == ",":
        return "; a line ends without a comma: remove it"
    if before.endswith(",") and after[:1] in ("]", "}"):
        return f"; remove the comma before {after[0]!r}"
    return "; this is Python, not JSON: write it with json.dumps" if after.startswith("'") else ""


class JsonStream:
    """The values of a text, one at a time, each of at most `MAX_LINE_BYTES`. `line` is where the next one starts.

    Every method raises `RowError` for what is not JSON; nothing can be read after that.
    """

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._position, self._is_ended = "", 0, False
        self.line = 1

    def peek(self) -> str:
        """The next character that is not a space; the empty text at the end."""
        while True:
            space = _SPACE.match(self._text, self._position)
            self._advance(space.end() if space else self._position)
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more():
                return ""

    def take(self, expected: str) -> str:
        """Takes the next character, one of `expected`."""
        character = self.peek()
        if not character or character not in expected:
            wanted = " or ".join(map(repr, expected))
            raise RowError(f"not JSON: expected {wanted}; found {character or 'the end of the file'}")
        self._advance(self._position + 1)
        return character

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._position)
                if end - self._position > MAX_LINE_BYTES:
                    raise _too_long()
                may_go_on = isinstance(value, int | float) and end > len(self._text) - MAX_WORD
                if not may_go_on or not self._read_more():
                    self._advance(end)
                    return value
            except RowError:
                raise
            except json.JSONDecodeError as error:
                is_incomplete = error.msg.startswith("Unterminated") or error.pos > len(self._text) - MAX_WORD
                if not is_incomplete or not self._read_more():
                    self._advance(error.pos)
                    raise RowError(f"not JSON: {error.msg}{hint_at(self._text, error)}") from None
            except RecursionError:
                raise RowError("nested too deeply") from None
            except ValueError as error:  # a number of too many digits
                raise RowError(str(error)) from None

    def elements(self) -> Iterator[Any]:
        """The elements of an array, after its bracket was taken; `line` is where the element started."""
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            self.peek()
            line = self.line
            value = self.value()
            end, self.line = self.line, line
            yield value
            self.line = end
            if self.take(",]") == "]":
                return

    def entries(self) -> Iterator[str]:
        """The keys of the entries of an object, after its brace was taken; the caller reads the value of each."""
        while self.peek() != "}":
            key = self.value()
            if not isinstance(key, str):
                raise RowError("not JSON: a key should be a string")
            self.take(":")
            yield key
            if self.peek() == "}":
                break
            self.take(",")
        self.take("}")

    def _advance(self, end: int) -> None:
        self.line += self._text.count("\n", self._position, end)
        self._position = end

    def _read_more(self) -> bool:
        """Whether there was more. What is kept doubles each time, so that a long value takes linear time."""
        if self._is_ended:
            return False
        kept = self._text[self._position :]
        if len(kept) > MAX_LINE_BYTES:
            raise _too_long()
        content = self._file.read(max(CHUNK_BYTES, len(kept)))
        self._is_ended = not content
        try:
            more = self._decode(content, self._is_ended)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise RowError(f"a byte (0x{byte:02x}) after this line is not UTF-8; save the file as UTF-8") from None
        if not self._is_ended:
            self._text, self._position = kept + more, 0
        return not self._is_ended
