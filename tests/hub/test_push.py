"""One commit per push, whatever happens on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from ftmech_hf.hub import Target
from tests.hub.server import TOKEN, USER, Fault, HubServer

REPO = f"{USER}/model"
CARD = "---\nlicense: mit\n---\n# A model\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "deep").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "other.safetensors").write_bytes(bytes(range(256)) * 30)
    (folder / "deep" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def target(api: HfApi) -> Target:
    return Target(REPO, "model", api=api, attempts=3, wait=0.01)


def published(hub: HubServer, branch: str = "main") -> dict[str, bytes]:
    files = hub.repos["model", REPO].history(branch)[0].files
    return {name: blob.content for name, blob in files.items() if name != ".gitattributes"}


def local(tree: Path) -> dict[str, bytes]:
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def commits(hub: HubServer) -> int:
    return len(hub.repos["model", REPO].history()) - 1  # the Hub makes the first one itself


def test_a_push_is_one_commit_and_a_second_one_is_none(hub: HubServer, target: Target, tree: Path) -> None:
    assert target.open(private=True) == f"{hub.url}/{REPO}"
    assert hub.repos["model", REPO].private
    assert target.identity() is None
    first = target.push(tree, message="first")
    assert (first.changed, commits(hub), published(hub)) == (True, 1, local(tree))
    again = target.push(tree, message="again")
    assert (again.changed, again.commit, commits(hub)) == (False, first.commit, 1)


def test_what_is_gone_here_goes_there_in_the_same_commit(hub: HubServer, target: Target, tree: Path) -> None:
    target.open()
    target.push(tree, message="first")
    (tree / "deep" / "config.json").unlink()
    (tree / "model.safetensors").write_bytes(b"other weights")
    target.push(tree, message="second")
    assert (commits(hub), published(hub)) == (2, local(tree))
    assert ".gitattributes" in hub.repos["model", REPO].history()[0].files


def test_a_revision_is_a_branch_that_leaves_main_alone(hub: HubServer, target: Target, tree: Path) -> None:
    target.open()
    target.push(tree, message="after ten steps", revision="step-10")
    assert (published(hub), published(hub, "step-10")) == ({}, local(tree))


PASSING = {
    "the commit fails": Fault("POST", "/commit/", "error", status=503),
    "the commit is cut off": Fault("POST", "/commit/", "drop"),
    "the answer to the commit is lost": Fault("POST", "/commit/", "lose_answer"),
    "asking what to upload fails": Fault("POST", "/preupload/", "error", status=500),
    "an upload is cut off": Fault("PUT", "/storage/", "drop"),
    "the storage fails": Fault("PUT", "/storage/", "error", status=500),
    "the answer of the storage is lost": Fault("PUT", "/storage/", "lose_answer"),
    "the listing fails": Fault("GET", "/tree/", "error", status=502),
    "creating fails": Fault("POST", "/repos/create", "error", status=504),
    "who we are is not answered": Fault("GET", "/whoami", "drop"),
    "the answer comes late": Fault("POST", "/commit/", "slow", seconds=0.5),
    "too many requests": Fault("POST", "/info/lfs/objects/batch", "error", status=429),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_is_tried_again_and_leaves_one_commit(
    fault: Fault, hub: HubServer, target: Target, tree: Path
) -> None:
    hub.faults = [Fault(fault.method, fault.path, fault.action, fault.times, fault.status, fault.seconds)]
    target.open()
    done = target.push(tree, message="a model")
    assert hub.faults[0].times == 0, "the fault never happened"
    assert (commits(hub), published(hub), done.changed) == (1, local(tree), True)


LASTING = {
    "the commit keeps failing": (Fault("POST", "/commit/", "error", times=99, status=503), OSError, "cannot push"),
    "the token expires on the way": (
        Fault("POST", "/commit/", "error", times=99, status=401), ValueError, "the Hub does not accept the token",
    ),
    "the storage has another size": (
        Fault("POST", "/objects/verify", "error", times=99, status=400), OSError, "while uploading '.*Bad request",
    ),
    "an upload is forbidden": (
        Fault("PUT", "/storage/", "error", times=99, status=403), OSError, "Error while uploading '.*403",
    ),
    "the card is not accepted": (Fault("POST", "/validate-yaml", "error", status=400), ValueError, "Invalid metadata"),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "kind", "message"), LASTING.values(), ids=LASTING)
def test_what_lasts_is_an_error_and_changes_nothing(
    fault: Fault, kind: type[Exception], message: str, hub: HubServer, target: Target, tree: Path
) -> None:
    target.open()
    hub.faults = [Fault(fault.method, fault.path, fault.action, fault.times, fault.status)]
    with pytest.raises(kind, match=message) as caught:
        target.push(tree, message="a model")
    assert TOKEN not in str(caught.value)
    assert (commits(hub), published(hub)) == (0, {})
    hub.faults = []
    assert target.push(tree, message="a model").changed, "the same command goes on later"
    assert published(hub) == local(tree)


def test_large_files_that_are_there_are_not_sent_again(hub: HubServer, target: Target, tree: Path) -> None:
    target.open()
    hub.faults = [Fault("POST", "/commit/", "error", times=99, status=503)]
    with pytest.raises(OSError, match="cannot push"):
        target.push(tree, message="a model")
    assert hub.count("^PUT") == 2
    hub.faults = []
    target.push(tree, message="a model")
    assert hub.count("^PUT") == 2


def test_nobody_is_overtaken(hub: HubServer, target: Target, tree: Path, api: HfApi) -> None:
    target.open()
    repo = hub.repos["model", REPO]

    class Slow(HfApi):
        """Somebody else pushes between our look and our commit."""

        def create_commit(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            repo.commit("main", "somebody else's", repo.history()[0].files)
            return super().create_commit(*args, **kwargs)  # type: ignore[call-overload]

    slow = Target(REPO, "model", api=Slow(endpoint=hub.url, token=TOKEN), attempts=3, wait=0.01)
    with pytest.raises(OSError, match="somebody else pushed"):
        slow.push(tree, message="a model")
    assert repo.history()[0].title == "somebody else's"


def test_a_wrong_token_is_named_as_the_reason_and_not_shown(hub: HubServer, tree: Path) -> None:
    wrong = "hf_" + "x" * 30
    target = Target(REPO, "model", api=HfApi(endpoint=hub.url, token=wrong), wait=0.01)
    with pytest.raises(ValueError, match=r"the Hub does not accept the token \(401\)") as caught:
        target.open()
    assert wrong not in str(caught.value)
    assert hub.repos == {}


def test_a_token_in_a_file_is_not_published(hub: HubServer, target: Target, tree: Path) -> None:
    target.open()
    (tree / "deep" / "config.json").write_text(f'{{"token": "{TOKEN}"}}')
    with pytest.raises(ValueError, match=r"config.json holds an access token"):
        target.push(tree, message="a model")
    assert published(hub) == {}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": b"mine"}, "holds something else, and this is a pretrain with config hash abc"),
        ({"env.json": b'{"kind": "probe", "hash": "abc"}'}, "holds a probe with config hash abc"),
        ({"env.json": b'{"kind": "pretrain", "hash": "def"}'}, "holds a pretrain with config hash def"),
        ({"env.json": b"broken"}, "holds something else"),
    ],
)
def test_only_an_earlier_push_of_the_same_run_is_replaced(
    files: dict[str, bytes], message: str, hub: HubServer, target: Target
) -> None:
    hub.add_repo("model", REPO, files)
    with pytest.raises(ValueError, match=message):
        target.check_same("pretrain", "abc")
    hub.add_repo("model", REPO, {"env.json": b'{"kind": "pretrain", "hash": "abc"}'})
    target.check_same("pretrain", "abc")
    hub.add_repo("model", REPO)
    target.check_same("pretrain", "abc")
