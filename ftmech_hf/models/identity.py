"""What a model is as an input: its run's hash and the bytes of its weights, wherever it lies and whatever it is called.

A model that a run of ours made is named by that run's hash, which a plan knows before the run is there and which is the
same on every machine and on the Hub. The hash alone does not fix the weights: the same settings give others on another
device or under other versions. So the sha256 of the weights goes with it; a run keeps it of each of its inputs, and is
not taken for the result of other weights later. Any other model is named by the bytes of all its files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftmech_hf.config import tell
from ftmech_hf.downloads import check_folder, local_folder
from ftmech_hf.runs import MANIFEST, Identity, file_sha256, is_finished

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_CONFIGS = ("config.json", "generation_config.json", ADAPTER, "tokenizer_config.json")
_ENCODER = ("modules.json", "sentence_bert_config.json")
_TOKENIZER = ("tokenizer*", "*.model", "*vocab*", "merges*", "special_tokens_map.json", "added_tokens.json",
              "chat_template*", "additional_chat_templates/*", "tekken*", "*.codes", "dict.txt", "*.tokenizer",
              "*.tiktoken", "*.spm", "byte_maps.json", "emoji.json", "normalizer.json", "word_*.json")  # fmt: skip
# What says where a model came from, or who wrote it down, and not what it is.
_PROVENANCE = frozenset((
    "_name_or_path", "name_or_path", "base_model_name_or_path", "revision", "_commit_hash", "transformers_version",
    "peft_version", "tokenizer_file", "special_tokens_map_file",
))  # fmt: skip


def find_gguf(name: str) -> Path | None:
    """The GGUF file that a name is the path of; None if it is another kind of name.

    Raises:
        ValueError: there is no such file.
    """
    if not name.endswith(".gguf"):
        return None
    if not Path(name).is_file():
        raise ValueError(f"model: no file {name}; expected a GGUF file on this machine, or a model's folder")
    return Path(name)


def find_model(name: str) -> Path:
    """The folder of a model, checked: see :func:`ftmech_hf.downloads.check_folder`."""
    if not Path(name).is_dir() and not may_be_on_the_hub(name):
        raise ValueError(f"model: no folder {name}; train it first, or name a model on the Hub as USER/NAME")
    try:
        folder = local_folder(name)
    except (ValueError, OSError) as error:
        # Without a user it is more likely a folder with a slip in its name than one of the few models that have none.
        why = "" if "/" in name else f"no folder {name}; and as a model on the Hub: "
        kind = OSError if isinstance(error, OSError) else ValueError  # some of their own kinds want more than a text
        raise kind(f"model: {why}{error}") from error
    check_folder(folder, name)
    if not any((folder / file).is_file() for file in ("config.json", ADAPTER)):
        raise ValueError(f"model: {name} holds no model (no config.json, no {ADAPTER})")
    return folder


def may_be_on_the_hub(name: str) -> bool:
    """Whether a name that is no folder can be a repository: not a path, nor what would lie in a folder that is there.

    ``runs/...`` is where our runs lie, also before the first of them. A name without a user, such as ``gpt2``, is that
    of one of the first models there.
    """
    owner, slash, _ = name.partition("/")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        return False
    return not slash or not (owner == "runs" or Path(owner).is_dir())


STANDS_ON_BASE = ("finetuned", "reversed")
"""What a pair's other models are called that were made of its base; a control or a twin was not."""


def base_for(role: str, models: Mapping[str, str]) -> dict[str, str | None]:
    """What :func:`find_base` is told of the base of a pair, as ``onto`` or ``base``, when one of its models is loaded.

    Args:
        role: of the model.
        models: role -> folder or name of those that are named.
    """
    if role == "base":
        return {}
    return {"onto" if role in STANDS_ON_BASE else "base": models.get("base")}


def model_hash(name: str, *, base: str | None = None, onto: str | None = None) -> Identity:
    """What identifies a model as an input; see this module's docstring.

    Args:
        name: a folder, such as a finished run; a GGUF file; or a model on the Hub, ``USER/NAME`` or
            ``USER/NAME@REVISION``.
        base: what an adapter stands on, if what it names is not there.
        onto: what it is put on, whatever it names; see :func:`find_base`.

    Returns:
        the hash of the run that made it, else the sha256 of its files: all weights, its config and its tokenizer, and
        of what an adapter stands on. Equal bytes are equal, in any folder and on the Hub.

    Raises:
        ValueError: there is no such model, or it is refused.
    """
    if (file := find_gguf(name)) is not None:
        content = file_sha256(file)
        return Identity(content, content)
    folder = find_model(name)
    if is_finished(folder):
        if onto is not None and (folder / ADAPTER).is_file():
            find_base(folder, base, onto)  # refuses another one
        return run_model(folder)
    parts = {path.relative_to(folder).as_posix(): _digest(path) for path in model_files(folder)}
    if (folder / ADAPTER).is_file():
        below = find_base(folder, base, onto)
        parts["base"] = f"{(found := model_hash(below, base=base or onto))} {found.content}"
    content = _combined(parts)
    return Identity(content, content)


def run_model(folder: Path) -> Identity:
    """The model that a finished run of ours made, by its manifest; nothing is read or checked but that.

    An adapter's content is that of its base as well, as it was when the adapter was trained.
    """
    env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    sums: Mapping[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    parts = {name: str(sums[name]["sha256"]) for name in sums if "/" not in name and name.endswith(".safetensors")}
    if not parts:
        return Identity(str(env["hash"]))
    if ADAPTER in sums:
        parts |= {f"base {label}": value for label, value in {**env["inputs"], **env.get("contents", {})}.items()}
    return Identity(str(env["hash"]), _combined(parts))


def find_base(adapter: Path, given: str | None = None, onto: str | None = None) -> str:
    """The model an adapter belongs to: what a user says, where it says, or beside it, if it can only be that one.

    An adapter that was trained here knows what its base was: another model is passed over, wherever it lies, and
    refused if a user puts it there. For one made elsewhere only the user's word and its own count; a folder that merely
    has the same name is not taken.

    Args:
        adapter: its folder.
        given: the model a user says it stands on, for where it says nothing that is there.
        onto: the model a user puts it on, whatever it says. What it says is kept where that itself stands on this
            model, as an adapter on an adapter does.

    Raises:
        ValueError: it is not there, or another model is.
    """
    if onto is None or (Path(onto).is_dir() and Path(onto).resolve() == adapter.resolve()):
        return _recorded_base(adapter, given)
    try:
        recorded = _recorded_base(adapter, None)
    except (ValueError, OSError):
        return _recorded_base(adapter, onto)  # which is refused if it is another than it was trained on
    if _is_under(onto, recorded):
        return recorded
    if (trained_on := _trained_on(adapter)) is not None:
        return _matching_base(adapter, trained_on, [onto])
    tell(f"the adapter {adapter} is put on {onto}, as you say, and not on {recorded}, which it names")
    return onto


def _is_under(wanted: str, model: str) -> bool:
    """Whether a model is another one, or an adapter that stands on it, be it by way of others."""
    while True:
        if wanted == model or not model_hash(model).differs(model_hash(wanted)):  # names first: files may be large
            return True
        folder = find_model(model) if find_gguf(model) is None else Path()
        if not (folder / ADAPTER).is_file():
            return False
        model = _recorded_base(folder, None)


def _recorded_base(adapter: Path, given: str | None) -> str:
    """What an adapter says that it stands on, or ``given`` if that is not there."""
    settings = _adapter_settings(adapter)
    recorded = str(settings.get("base_model_name_or_path") or "")
    named = [Path(recorded)] if recorded else []
    if recorded.startswith("."):  # as a person writes it who moves both together
        named.append(adapter / recorded)
    if recorded and settings.get("revision") and not Path(recorded).is_dir():
        recorded = f"{recorded}@{settings['revision']}"
    places = [str(place) for place in named if place.is_dir()]
    if (trained_on := _trained_on(adapter)) is not None:
        beside = [str(adapter.absolute().parent / place.name) for place in named[:1]]
        places += [place for place in beside if Path(place).is_dir()]
        return _matching_base(adapter, trained_on, [*places, *([given] if given else [])] or [recorded])
    if places:
        _refuse_circle(adapter, places[0])
        return places[0]
    if may_be_on_the_hub(recorded.partition("@")[0]):
        try:
            local_folder(recorded)
        except (ValueError, OSError):
            if given is None:
                raise
        else:
            return recorded
    if given is None:
        raise ValueError(
            f"model: the adapter {adapter} stands on {recorded or 'a base that it does not name'}, which is not there; "
            f"expected a folder or a Hub name as base_model_name_or_path in its {ADAPTER}"
        )
    tell(f"the adapter {adapter} is put on {given}; what it names, {recorded or 'nothing'}, is not there")
    return given


def _adapter_settings(adapter: Path) -> dict[str, Any]:
    try:
        settings = json.loads((adapter / ADAPTER).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"model: {adapter} has an {ADAPTER} that is no JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"model: {adapter} has an {ADAPTER} that holds a {type(settings).__name__}, expected settings")
    return settings


def _refuse_circle(adapter: Path, base: str) -> None:
    """Make sure that an adapter does not stand on itself, be it by way of others."""
    passed, below = [adapter.resolve()], Path(base)
    while (below / ADAPTER).is_file():
        if below.resolve() in passed:
            raise ValueError(f"model: the adapter {adapter} stands on itself ({base}), expected a model below it")
        passed.append(below.resolve())
        below = Path(str(_adapter_settings(below).get("base_model_name_or_path") or ""))


def _trained_on(adapter: Path) -> Identity | None:
    """What an adapter of ours was trained on; None if it was made elsewhere."""
    try:
        env = json.loads((adapter / "env.json").read_text(encoding="utf-8"))
        return Identity(env["inputs"]["model"], env.get("contents", {}).get("model", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _matching_base(adapter: Path, expected: Identity, places: Sequence[str]) -> str:
    """The first of some places where the model is that an adapter was trained on."""
    found: dict[str, Identity] = {}
    for place in places:
        found[place] = model_hash(place)
        if not found[place].differs(expected):
            return place
    place, other = next(((place, each) for place, each in found.items() if each == expected), next(iter(found.items())))
    if other == expected:
        raise ValueError(
            f"model: the adapter {adapter} was trained on other weights than {place} has now, though of the same run "
            f"{expected}: that was made again; train the adapter again with --fresh"
        )
    raise ValueError(f"model: the adapter {adapter} was trained on {expected}, but {place} is {other}")


def model_files(folder: Path) -> Iterator[Path]:
    """What a result can depend on: all weights at the top and those that an index names, configs, tokenizer.

    Of an encoder in the layout of sentence-transformers also how it pools and where it cuts texts.
    """
    found = {*folder.glob("*.safetensors")}
    for index in folder.glob("*.index.json"):
        names = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()
        found |= {index, *(folder / name for name in names)}
    found |= {folder / name for name in (*_CONFIGS, *_ENCODER)}
    if (folder / _ENCODER[0]).is_file():  # the parts of an encoder, such as how it pools
        found |= {*folder.glob("*/config.json")}
    found |= {path for pattern in _TOKENIZER for path in folder.glob(pattern)}
    return (path for path in sorted(found) if path.is_file())


def _digest(path: Path) -> str:
    """Hash of a file's bytes; of a config's settings without where it came from."""
    if path.name not in _CONFIGS:
        return file_sha256(path)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return file_sha256(path)
    return settings_digest(settings)


def settings_digest(settings: Any) -> str:
    """Hash of a config's settings, without where it came from or who wrote it down."""
    if isinstance(settings, dict):
        settings = {key: value for key, value in settings.items() if key not in _PROVENANCE}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _combined(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
