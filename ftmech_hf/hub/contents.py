"""The texts inside files of any kind that a run folder may hold, and how to change them.

Everything goes through :func:`rewrite_file`: text, JSON and YAML by their values, tables by their columns, safetensors
by their header, pictures by their text chunks, pages by what is embedded in them. What can only be read (an archive, an
unknown binary file) is refused if a text in it would have to change.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ftmech_hf.hub.tables import rewrite_arrow, rewrite_parquet
from ftmech_hf.hub.texts import Change, FixedText, check_binary, refuse_change, rewrite_text

_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w=.-]+)*;base64,([A-Za-z0-9+/=]+)")
_UNREAD = {
    "xz": rb"\xfd7zXZ\x00", "bzip2": rb"BZh[1-9]1AY&SY", "zstd": rb"\x28\xb5\x2f\xfd", "7z": rb"7z\xbc\xaf\x27\x1c",
    "rar": rb"Rar!\x1a\x07", "lz4": rb"\x04\x22\x4d\x18",
}  # fmt: skip
"""Kinds of archives that are not looked into -> what they begin with."""
_PNG = b"\x89PNG\r\n\x1a\n"


def rewrite_file(path: Path, change: Change) -> bool:
    """Pass every text in a file through ``change``; the file is written again only if one of them changes.

    Returns:
        whether it was.

    Raises:
        FixedText: a text in it would change, and the file is of a kind that is only read.
    """
    if path.suffix == ".safetensors":
        return _rewrite_safetensors(path, change)
    if path.suffix == ".parquet":
        return rewrite_parquet(path, change)
    data = path.read_bytes()
    changed = rewrite_bytes(data, path.suffix.lower(), change)
    if changed != data:
        path.write_bytes(changed)
    return changed != data


def rewrite_bytes(data: bytes, suffix: str, change: Change) -> bytes:
    """The same for a file's content.

    Args:
        data: the content.
        suffix: of the file's name, in lower case, with its dot.
        change: see :data:`Change`.
    """
    if data.startswith(_PNG):
        return _rewrite_png(data, change)
    if data.startswith(b"ARROW1") or suffix == ".arrow":
        return rewrite_arrow(data, change)
    if data.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        _check_archive(data, change)
        return data
    if kind := next((kind for kind, begins in _UNREAD.items() if re.match(begins, data)), None):
        raise ValueError(f"is packed ({kind}), and what is in it is not looked at; leave it out, or unpack it")
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        check_binary(data, change)
        return data
    structured = suffix in (".json", ".jsonl", ".yaml", ".yml")
    changed = rewrite_text(text, suffix, change) if structured else _rewrite_page(text, change)
    return data if changed == text else changed.encode(encoding)


def _rewrite_page(text: str, change: Change) -> str:
    """Text with files embedded in it as ``data:`` addresses, whose characters must not be taken for words."""
    parts, end = [], 0
    for found in _DATA_URI.finditer(text):
        parts += [change(text[end : found.start()]), _rewrite_uri(found, change)]
        end = found.end()
    return "".join([*parts, change(text[end:])])


def _rewrite_uri(found: re.Match[str], change: Change) -> str:
    try:
        data = base64.b64decode(found[2], validate=True)
    except binascii.Error:
        return found[0]
    kind = (found[1] or "").rpartition("/")[2].partition("+")[0]
    changed = rewrite_bytes(data, f".{kind}", change)
    return found[0] if changed == data else found[0].replace(found[2], base64.b64encode(changed).decode())


def _check_archive(data: bytes, change: Change) -> None:
    for name, content in _members(data):
        refuse_change(name, change)
        if rewrite_bytes(content, Path(name).suffix.lower(), change) != content:
            raise FixedText


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist())
        else:
            yield "", gzip.decompress(data)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise ValueError("is an archive that cannot be read, so nobody knows what is in it") from error


def _rewrite_png(data: bytes, change: Change) -> bytes:
    """A picture without the text chunks that would have to change."""
    kept, place = [_PNG], len(_PNG)
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        chunk = data[place : place + 12 + length]
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"eXIf") or all(change(text) == text for text in _png_texts(body)):
            kept.append(chunk)
        place += 12 + length
    refuse_change(data[place:].decode("latin-1"), change)  # what hangs behind the picture
    return b"".join([*kept, data[place:]])


def _png_texts(body: bytes) -> Iterator[str]:
    yield body.decode("latin-1")
    yield body.decode("utf-8", "ignore")
    for start in range(len(body)):  # compressed text begins somewhere after the keyword
        if body[start] == 0x78:
            try:
                yield zlib.decompress(body[start:]).decode("utf-8", "ignore")
            except zlib.error:
                continue


def _rewrite_safetensors(path: Path, change: Change) -> bool:
    """Only the header is text; the tensors are copied as they are."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > path.stat().st_size - 8:
            check_binary(path.read_bytes(), change)
            return False
        header = file.read(length).decode("utf-8", "replace")
    changed = rewrite_text(header.strip(), ".json", change)
    if changed == header.strip():
        return False
    content = changed.encode()
    content += b" " * (-len(content) % 8)
    beside = path.with_name(f".{path.name}.tmp")
    with path.open("rb") as old, beside.open("wb") as new:
        old.seek(8 + length)
        new.write(len(content).to_bytes(8, "little") + content)
        shutil.copyfileobj(old, new)
    beside.replace(path)
    return True
