"""What is published says nothing of the machine it comes from: no access token, and no place on its disks.

A place that means something elsewhere is replaced by that: a model's folder by its repository, or by the hash of the
run that made it. Any other is left out. A token is never taken out in silence: it refuses the whole.
"""

from __future__ import annotations

import functools
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from markupsafe import escape as markup

from ftmech_hf.config.credentials import holds_secret
from ftmech_hf.hub.contents import rewrite_file
from ftmech_hf.hub.texts import Change, FixedText

LOCAL = "(local path)"
"""What stands where a place was left out."""

VOCABULARIES = re.compile(
    r"tokenizer\.json|(?:entity_)?vocab[\w-]*\.(?:json|txt|bpe)|merges\.txt|bpe\.codes|dict\.txt|added_tokens\.json"
    r"|special_tokens_map\.json|chat_template\.(?:jinja|json)|.*\.(?:model|tiktoken|spm)"
)
"""Files that say what a model reads: pieces of words, of which some are places (``/tmp`` is one token of many models).
They stay as they are, byte for byte."""

_JOINT = r"""(?:&amp;|&(?!#?\w+;)|'|&#39;|&#x27;)(?=\w)"""
"""What may stand inside a folder's name, as in ``R&D`` or ``O'Brien``, but not at its end; also as a page has it."""
_PART = rf"""(?:[^\s"'`<>|,;:&()\[\]{{}}*?/\\]|{_JOINT})+"""
_BEFORE = r"(?<![\w/.~+*<)\]}&%#-])"
_PATTERNS = {
    "absolute": rf"(?:file://|{_BEFORE})/(?!(?:usr|bin|sbin|etc|dev|proc|sys|lib|lib64)/){_PART}(?:/{_PART})+/?",
    "home": rf"(?<![\w/~])~(?:[A-Za-z_][\w.-]*)?(?:/{_PART})+/?",
    "relative": rf"(?<![\w/.])\.\.?(?:/{_PART})+/?",
    "run": rf"(?:file://|(?<![\w/.~-]))runs(?:/{_PART})+/?",
    "windows": r"""(?<!\w)[A-Za-z]:(?:\\{1,2}|/)(?:Users|Documents and Settings|\w{2,}\\)[^\s"'`<>|*?]*""",
}
"""What looks like a place on somebody's disk. The folders of every system (``/usr``, ``/etc``) say nothing."""


def _as_written(text: str) -> list[str]:
    """A text as it may stand in a file: as it is or quoted for a shell, and either escaped for a page.

    Of a page each writer escapes in its own way: Jinja, the standard library, and what draws pictures (SVG).
    """
    quoted = (text, text.replace("'", "'\"'\"'"))
    return [form for each in quoted for form in (each, escape(each, quote=False), escape(each), str(markup(each)))]


class SecretFound(FixedText):
    """A file holds an access token."""


def check_no_secrets(path: Path, name: str) -> None:
    """Look for access tokens in everything that a file holds, and in its name.

    Raises:
        ValueError: there is one; the message does not repeat it.
    """

    def look(text: str) -> str:
        if holds_secret(text):
            raise SecretFound
        return text

    try:
        look(name)
        if path.suffix not in (".safetensors", ".parquet"):  # those may be larger than memory
            look(path.read_bytes().decode("latin-1"))
        rewrite_file(path, look)
    except SecretFound:
        shown = "a file whose name" if holds_secret(name) else name
        raise ValueError(f"run: {shown} holds an access token; nothing was published") from None
    except FixedText:
        raise AssertionError from None
    except ValueError as error:
        raise ValueError(f"run: {name} {error}; nothing was published") from None


class Redaction:
    """Takes places of this machine out of files.

    Args:
        names: a place as it is spelled somewhere -> what to publish instead.
        words: setting -> a place that it has and that may be any word elsewhere -> what to publish instead.
    """

    def __init__(self, names: Mapping[str, str], words: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self._words = words or {}
        self._names = {place.rstrip("/\\"): name for place, name in names.items() if place.rstrip("/\\.")}
        paths = {place: name for place, name in self._names.items() if re.search(r"[/\\]", place)}
        self._written = {
            form: published
            for place, name in paths.items()
            for form, published in zip(_as_written(place), _as_written(name), strict=True)
        } | paths
        known = [
            rf"(?:file://|(?<![\w/.~-]))(?:\./)?(?P<known>{_any_of(self._written)})"
            rf"(?![\w+=@%~-]|\.\w|{_JOINT}[^\s/]*/)"
        ]
        roots = _any_of(form for root in _roots() for form in _as_written(root))
        private = [rf"(?:file://|(?<![\w/.-]))(?:{roots})(?![\w.-])(?:[/\\]+{_PART})*[/\\]?"] if roots else []
        self._known = re.compile("|".join([*(known if paths else []), *private]) or r"(?!)")
        self._any = re.compile("|".join([*(known if paths else []), *private, *_PATTERNS.values()]))

    def _replace(self, found: re.Match[str]) -> str:
        known = found.groupdict().get("known")
        return LOCAL if known is None else self._written[known]

    def text(self, text: str, *, anywhere: bool = True) -> str:
        """A text without places.

        Args:
            text: it.
            anywhere: take out whatever looks like a place, too, and not only those that are known.
        """
        return (self._any if anywhere else self._known).sub(self._replace, text)

    def setting(self, value: str, name: str = "") -> str:
        """The value of a setting of some name; where it is a place, it may look like any other word."""
        place = value.rstrip("/")
        if (published := self._words.get(name, {}).get(place)) is not None:
            return published
        if place in self._names:
            return self._names[place]
        if is_place(value) and not value.startswith("recipes/"):
            changed = self.text(value)
            return LOCAL if changed == value or LOCAL in changed else changed  # what follows may be of the place, too
        return self.text(value)

    def command(self, line: str) -> str:
        """A command without places, which can be given to a shell as it is."""
        # Of old runs, a place with a space in it is in no quotes.
        line = self._known.sub(lambda found: self._replace(found) if found.groupdict().get("known") else found[0], line)
        try:
            words = shlex.split(line)
        except ValueError:  # an apostrophe of such a run
            words = line.split(" ")
        setting, published = "", []
        for word in words:
            if word.startswith("--"):
                setting = word[2:].partition("=")[0].replace("-", "_")
            name, equals, value = word.rpartition("=")
            published.append(f"{name}{equals}{self.setting(value, setting)}")
        return shlex.join(published)

    def folder(self, folder: Path, *, rows: bool = False) -> None:
        """Take places out of all files of a folder.

        Args:
            folder: what is to be published.
            rows: its tables are data that models learn from: what only looks like a place stays as it is in them.

        Raises:
            ValueError: a file that cannot be changed holds one.
        """
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if VOCABULARIES.fullmatch(path.name):
                continue
            data = rows and path.suffix in (".parquet", ".arrow")
            change: Change = functools.partial(self.text, anywhere=not data)
            name = path.relative_to(folder).as_posix()
            try:
                rewrite_file(path, functools.partial(self.text, anywhere=False) if _is_binary(path) else change)
            except FixedText:
                raise ValueError(
                    f"run: {name} holds a place of this machine that cannot be taken out of it; remove the file"
                ) from None
            except ValueError as error:
                raise ValueError(f"run: {name} {error}; nothing was published") from None


def _exists(place: str) -> bool:
    try:
        return len(place) < 4096 and Path(place).expanduser().exists()
    except (OSError, ValueError):
        return False


def is_place(value: str) -> bool:
    """Whether a setting names a place on this machine, and not a repository of the Hub or a word."""
    if re.match(r"[/~\\]|\.\.?[/\\]|runs/|[A-Za-z]:[/\\]", value):
        return True
    return bool(re.search(r"[/\\]", value)) and "\n" not in value and _exists(value)


def spellings(place: str) -> set[str]:
    """The ways in which a place may be written."""
    path = Path(place).expanduser()
    return {place, str(path), str(path.absolute()), str(path.resolve())}


def _any_of(places: Iterable[str]) -> str:
    """A pattern of any of these texts, the longest first."""
    return "|".join(map(re.escape, sorted({*places}, key=len, reverse=True)))


def _roots() -> set[str]:
    """Folders under which everything is this user's or this machine's."""
    found = {
        str(each)
        for path in (Path.home(), Path.cwd(), Path(tempfile.gettempdir()))
        for each in (path.absolute(), path.resolve())
    }
    return {place for place in found if len(Path(place).parts) > 1}


def _is_binary(path: Path) -> bool:
    """Whether a file is of a kind in whose bytes anything may look like a path."""
    if path.suffix in (".safetensors", ".parquet", ".png", ".arrow"):
        return False  # only their texts are looked at
    with path.open("rb") as file:
        start = file.read(8192)
    return b"\0" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff"))  # text of two bytes a letter
