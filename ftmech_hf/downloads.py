"""What is taken from the Hub or from any folder: files that cannot run code, that stay in their folder, as published.

Weights are safetensors only; a pickle is never opened, nor is code of a repository run. Every downloaded file is
compared with the hash that the Hub gives for it, and with the manifest of the run where there is one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported without saying so

from ftmech_hf.runs import MANIFEST, damaged_files, is_finished

RepoKind = Literal["model", "dataset"]

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
"""Files that Python would have to unpickle, which can run any code."""
WEIGHTS = ("model", "pytorch_model", "adapter_model", "diffusion_pytorch_model", "consolidated")
"""How the names of files begin that hold a model's weights: beside a pickle of such a name other tensors do not do."""
T = TypeVar("T")
NOT_WANTED = [*(f"*{suffix}" for suffix in PICKLES), "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.py"]


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: the server was busy, or the connection broke."""
    response = getattr(error, "response", None)
    if isinstance(error, HfHubHTTPError) and response is not None:
        return response.status_code in (408, 429) or response.status_code >= 500
    # huggingface_hub 1 raises httpx's errors and 2 those of its successor; both have these names.
    names = {kind.__name__ for kind in type(error).__mro__}
    if "TransportError" in names:
        return True
    return error.__cause__ is not None and is_transient(error.__cause__)


def _has_no_address(error: BaseException) -> bool:
    """Whether a connection failed because the server's name is not known, as on a machine without a network."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, socket.gaierror) and found.errno == socket.EAI_NONAME:
            return True
        found = found.__cause__ or found.__context__
    return False


def retried(call: Callable[[], T], attempts: int, wait: float, again: Callable[[Any], bool] = is_transient) -> T:
    """Call until it works, as long as trying again may help; waits twice as long each time."""
    for attempt in range(attempts):
        try:
            return call()
        except Exception as error:
            if not again(error) or _has_no_address(error) or attempt == attempts - 1:
                raise
            time.sleep(wait * 2**attempt)
    raise AssertionError


@contextlib.contextmanager
def hub_errors(field: str, what: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one line that says what could not be done and why."""
    try:
        yield
    except RepositoryNotFoundError as error:
        raise ValueError(f"{field}: cannot {what}: there is no such repository, or the token may not see it") from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{field}: cannot {what}: there is no such revision") from error
    except HFValidationError as error:
        raise ValueError(f"{field}: cannot {what}: {error}") from error
    except LocalTokenNotFoundError as error:
        raise ValueError(
            f"{field}: cannot {what}: there is no token; set HF_TOKEN or log in with `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise OSError(f"cannot {what}: it is not in the cache, and the Hub cannot be reached") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise ValueError(
                f"{field}: cannot {what}: the Hub does not accept the token ({status}); "
                "set HF_TOKEN or log in with `hf auth login`, with a token that may write"
            ) from error
        raise OSError(f"cannot {what}: {' '.join(str(error).split())}") from error
    except Exception as error:
        if is_transient(error):
            raise OSError(f"cannot {what}: {type(error).__name__}: {error}") from error
        raise


def check_repo_id(field: str, repo_id: str) -> None:
    """Make sure that a repository can be called that.

    Raises:
        ValueError: it cannot; says why.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{field}: {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"{field}: {repo_id!r}, expected USER/NAME")


def check_names(names: Iterable[str], where: str) -> None:
    """Make sure that a listing of files can be taken.

    Raises:
        ValueError: a path leads out of the folder, or the only weights are a pickle.
    """
    names = list(names)
    check_paths(names, where)
    pickles = [name for name in names if name.endswith(PICKLES)]
    safe = [name for name in names if name.endswith(".safetensors")]
    weights = [name for name in safe if Path(name).name.startswith(WEIGHTS)]
    if pickles and not (weights or (safe and not any(Path(name).name.startswith(WEIGHTS) for name in pickles))):
        raise ValueError(
            f"model: {where} is refused: its weights are a pickle ({pickles[0]}), which can run code when it is "
            "loaded; expected safetensors"
        )


def check_paths(names: Iterable[str], where: str) -> None:
    """Make sure that no path of a listing leads out of its folder."""
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
            raise ValueError(f"model: {where} is refused: its file {name!r} would lie outside its folder")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_folder(folder: Path, where: str | None = None) -> None:
    """Make sure that the files of a folder, ours or anybody's, can be loaded without running code.

    Args:
        folder: what is to be loaded.
        where: what to call it in errors.

    Raises:
        ValueError: it needs code of its own (``auto_map``), its only weights are a pickle, an index or a manifest names
            files outside it, or a finished run's files differ from its manifest.
    """
    where = where or str(folder)
    names = [path.name for path in folder.iterdir()]
    check_names(names, where)
    for path in sorted(folder.glob("*.json")):
        content = _read_json(path)
        if "auto_map" in content:
            raise ValueError(
                f"model: {where} is refused: {path.name} asks for code of its own (auto_map), and no code but "
                "transformers' is run"
            )
        if path.name.endswith(".index.json"):
            files = _indexed(path, where)
            # an index of pickles may lie beside safe weights, which are read instead of them; one of safe weights not
            beside = names if path.name.removesuffix(".index.json").endswith(PICKLES) else []
            check_names([*files, *beside], where)
    if is_finished(folder):
        check_names(_read_json(folder / MANIFEST), where)
        if damaged := damaged_files(folder):
            raise ValueError(f"model: {where} is damaged: {', '.join(damaged)}")


def _indexed(path: Path, where: str) -> list[str]:
    """The files that an index names; raises a ValueError if it cannot be read, or names something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"model: {where}: {path.name} cannot be read ({error}), expected an index") from error
    found = content.get("weight_map", {}) if isinstance(content, dict) else content
    if not isinstance(found, dict):
        raise ValueError(f"model: {where}: weight_map of {path.name} is a {type(found).__name__}, expected names")
    if wrong := [each for each in found.values() if not isinstance(each, str)]:
        raise ValueError(f"model: {where}: weight_map of {path.name} names {wrong[0]!r}, expected names of files")
    return [*found.values()]


def pull(
    repo_id: str,
    *,
    kind: RepoKind = "model",
    revision: str | None = None,
    api: HfApi | None = None,
    attempts: int = 5,
    wait: float = 1.0,
) -> Path:
    """Download a repository into the Hub's cache, and check every file's hash.

    Args:
        repo_id: ``USER/NAME``.
        kind: ``model`` or ``dataset``.
        revision: branch, tag or commit; ``main`` if not given.
        api: whom to ask, and as whom; the Hub and the user's token if not given.
        attempts, wait: how often something that failed in passing is tried, and seconds before the second try.

    Returns:
        the folder; with ``HF_HUB_OFFLINE=1`` that of an earlier download, checked against its manifest.

    Raises:
        ValueError: there is no such repository, or it is refused: see :func:`check_folder`.
        OSError: the Hub cannot be reached, or what came differs from what it promised.
    """
    api = api or HfApi()
    where = f"{repo_id}@{revision or 'main'}"
    with hub_errors("model", f"pull {where}"):
        if constants.is_offline_mode():
            folder = Path(snapshot_download(repo_id, repo_type=kind, revision=revision, local_files_only=True))
        else:
            folder = retried(lambda: _download(api, repo_id, kind, revision, where), attempts, wait)
    if kind == "model":
        check_folder(folder, where)
    elif is_finished(folder) and (damaged := damaged_files(folder)):
        raise ValueError(f"repo_id: {where} is damaged: {', '.join(damaged)}")
    return folder


def list_files(api: HfApi, repo_id: str, kind: RepoKind, revision: str | None) -> tuple[str, list[str]]:
    """(the commit that a revision is now, its files)."""
    commit = str(api.repo_info(repo_id, repo_type=kind, revision=revision).sha)
    return commit, api.list_repo_files(repo_id, repo_type=kind, revision=commit)


def _download(api: HfApi, repo_id: str, kind: RepoKind, revision: str | None, where: str) -> Path:
    commit, names = list_files(api, repo_id, kind, revision)
    if kind == "model":
        check_names(names, where)  # before anything is written
    else:
        check_paths(names, where)
    unwanted = NOT_WANTED if kind == "model" else [f"*{suffix}" for suffix in PICKLES]
    folder = Path(
        snapshot_download(
            repo_id, repo_type=kind, revision=revision, endpoint=api.endpoint, token=api.token, ignore_patterns=unwanted
        )
    )
    if folder.name != commit:  # asked for by its name, so that it is found by it offline
        raise OSError(f"{where} changed while it was pulled; pull it again")
    found = api.verify_repo_checksums(repo_id, repo_type=kind, revision=commit, local_dir=folder)
    if found.mismatches:
        damaged = [each["path"] for each in found.mismatches]
        for name in damaged:  # a damaged file must not be found in the cache by the next try
            (folder / name).resolve().unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)
        raise OSError(f"cannot pull {where}: {', '.join(damaged)} came with another hash than the Hub promised")
    return folder


@functools.cache
def _pulled(repo_id: str, revision: str | None) -> Path:
    return pull(repo_id, revision=revision)


@functools.cache
def hub_commit(repo_id: str, kind: RepoKind, revision: str | None = None) -> str:
    """The commit that a repository's revision is; within one process always the same, even if somebody pushes.

    With ``HF_HUB_OFFLINE=1`` that of the last download.

    Raises:
        ValueError: there is no such repository or revision.
        OSError: the Hub cannot be reached.
    """
    api = HfApi()
    with hub_errors(kind, f"look up {repo_id}@{revision or 'main'}"):
        if constants.is_offline_mode():
            return Path(snapshot_download(repo_id, repo_type=kind, revision=revision, local_files_only=True)).name
        return str(retried(lambda: api.repo_info(repo_id, repo_type=kind, revision=revision), 5, 1.0).sha)


def local_folder(name: str) -> Path:
    """The folder of a model: itself, or that of a pulled ``USER/NAME`` or ``USER/NAME@REVISION``.

    Within one process a name stands for the same files, even if somebody pushes meanwhile.
    """
    if Path(name).is_dir():
        return Path(name)
    repo_id, _, revision = name.partition("@")
    return _pulled(repo_id, revision or None)
