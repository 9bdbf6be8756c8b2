"""Where the records of raw files begin and end. Files are streamed: none is held whole, whatever is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

END = "<|endoftext|>"

CHUNK = 1 << 20
"""Bytes that are read at a time."""

LONGEST = 1_000_000
"""Bytes of a record at most; the stories of TinyStories have 800 on average."""

UNMARKED = 10_000
"""Bytes of a text at most that is one story without any mark."""

SPACE = b" \t\r\n"
UTF8_MARK = b"\xef\xbb\xbf"
OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_END_OF_WORD = re.compile(rb"[\s,\]]")
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL)


class RawRecord(NamedTuple):
    """A record as it lies in its file.

    Attributes:
        start: its first byte's place in the file.
        content: its bytes, without what separates it from the next.
        reason: why it cannot be used, if that is seen from where it ends.
    """

    start: int
    content: bytes
    reason: str = ""


TOO_LONG = f"longer than {LONGEST:,} bytes"


def raw_records(path: Path, kind: str | None = None) -> Iterator[RawRecord]:
    """The records of a raw file, one after the other; the end of its name says what it is, unless a kind is given.

    ``.json`` is a list of records and ``.jsonl`` has one a line; in any other file they are what stands between marks
    ``<|endoftext|>``, wherever in a line these are.

    Raises:
        ValueError: a ``.json`` file that is no list, a text without marks, or one that is not UTF-8 as a whole.
    """
    kinds = {".json": _json_objects, ".jsonl": _lines}
    with path.open("rb") as file:
        beginning = file.read(len(UTF8_MARK))
        if encoding := OTHER_ENCODINGS.get(beginning[:2]):
            raise ValueError(f"files: {path} is {encoding}, expected UTF-8")
        file.seek(len(UTF8_MARK) if beginning == UTF8_MARK else 0)
        yield from kinds.get(kind or path.suffix, _text_blocks)(path, file)


def _stripped(start: int, content: bytes) -> Iterator[RawRecord]:
    """The record in some bytes, if there is anything but space."""
    if record := content.strip(SPACE):
        yield RawRecord(start + content.index(record), record, TOO_LONG if len(record) > LONGEST else "")


def _text_blocks(path: Path, file: BinaryIO) -> Iterator[RawRecord]:
    """What stands between the marks ``<|endoftext|>``."""
    mark = END.encode()
    base, rest, dropped, marks = file.tell(), b"", 0, 0
    while chunk := file.read(CHUNK):
        *blocks, rest = (rest + chunk).split(mark)
        for block in blocks:
            yield from [RawRecord(base, b"", TOO_LONG)] if dropped else _stripped(base, block)
            base, dropped, marks = base + dropped + len(block) + len(mark), 0, marks + 1
        if len(rest) > 2 * LONGEST:
            dropped += len(rest) - len(mark)
            rest = rest[-len(mark) :]  # a mark may lie across pieces
    if not marks and (dropped or len(rest.strip(SPACE)) > UNMARKED):
        raise ValueError(f"files: {path} has no {END}, expected one between stories")
    yield from [RawRecord(base, b"", TOO_LONG)] if dropped else _stripped(base, rest)


def _lines(path: Path, file: BinaryIO) -> Iterator[RawRecord]:
    """The lines that hold anything."""
    del path
    place = file.tell()
    while line := file.readline(2 * LONGEST):
        start, place = place, place + len(line)
        if len(line) == 2 * LONGEST and not line.endswith(b"\n"):
            while not line.endswith(b"\n") and (line := file.readline(CHUNK)):
                place += len(line)
            yield RawRecord(start, b"", TOO_LONG)
        else:
            yield from _stripped(start, line)


class _Window:
    """A window over a file, which is read piece by piece.

    Attributes:
        bytes: the part.
        base: the place of its first byte in the file.
        place: the first byte of the part that is not used yet.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.bytes, self.base, self.place = path, file, b"", file.tell(), 0

    def more(self) -> None:
        """Forget what is used, and read as much again as is left.

        Raises:
            ValueError: the file is at its end, or a record is far too long.
        """
        left = self.bytes[self.place :]
        if len(left) > 100 * LONGEST:
            raise ValueError(f"files: {self.path} holds a record of more than {100 * LONGEST:,} bytes")
        read = self.file.read(max(CHUNK, len(left)))
        if not read:
            raise ValueError(f"files: {self.path} is not valid JSON: it ends too early")
        self.base, self.place, self.bytes = self.base + self.place, 0, left + read

    def next(self, skipped: bytes) -> bytes:
        """The next byte that is none of these; those before it are used."""
        while True:
            while self.place < len(self.bytes) and self.bytes[self.place] in skipped:
                self.place += 1
            if self.place < len(self.bytes):
                return self.bytes[self.place : self.place + 1]
            self.more()

    def item(self) -> bytes:
        """Use the item that begins here: to the bracket that closes it, if it has brackets."""
        if self.bytes[self.place] not in b'{["':
            while not (found := _END_OF_WORD.search(self.bytes, self.place)):
                self.more()
            return self._use(found.start())
        at, depth = self.place, 0
        while True:
            token = _TOKEN.search(self.bytes, at)
            if token is None or token[0] == b'"':  # or a string that has not been read to its end
                at = (len(self.bytes) if token is None else token.start()) - self.place
                self.more()
                continue
            at = token.end()
            depth += (token[0] in (b"{", b"[")) - (token[0] in (b"}", b"]"))
            if depth == 0:
                return self._use(at)

    def _use(self, end: int) -> bytes:
        used, self.place = self.bytes[self.place : end], end
        return used


def _json_objects(path: Path, file: BinaryIO) -> Iterator[RawRecord]:
    """The items of a JSON list."""
    window = _Window(path, file)
    if (first := window.next(SPACE)) != b"[":
        kind = {b"{": "dict", b'"': "str"}.get(first, "something else")
        raise ValueError(f"files: {path} holds {kind}, expected a list of records, or one record a line")
    window.place += 1
    while (first := window.next(SPACE + b",")) != b"]":
        start = window.base + window.place
        if first == b"}":
            raise ValueError(f"files: {path} is not valid JSON: a }} without its {{ at byte {start}")
        content = window.item()
        yield RawRecord(start, content, TOO_LONG if len(content) > LONGEST else "")


def has_lines_of_json(path: Path) -> bool:
    """Whether a ``.json`` file is no list, but has an object on its first line."""
    with path.open("rb") as file:
        line = file.readline(LONGEST).removeprefix(UTF8_MARK).strip()
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict) and line != b"{}"
    except (ValueError, RecursionError):
        return False
