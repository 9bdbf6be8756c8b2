"""Push a folder to the Hub as one commit, so that it is there whole or not at all."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from ftmech_hf.downloads import RepoKind, hub_errors, is_transient, list_files, retried
from ftmech_hf.hub.redaction import check_no_secrets

KEPT = ".gitattributes"
"""The one file of a repository that the Hub itself wrote."""

T = TypeVar("T")


@dataclass(frozen=True)
class Pushed:
    """What a push came to.

    Attributes:
        url: of the repository.
        commit: hash of the revision as it is now.
        changed: whether this push made that commit; not if the same files were there already.
    """

    url: str
    commit: str
    changed: bool


class Target:
    """A repository to push to.

    Args:
        repo_id: ``USER/NAME``.
        kind: ``model`` or ``dataset``.
        api: whom to ask, and as whom; the Hub and the user's token if not given.
        attempts, wait: how often something that failed in passing is tried, and seconds before the second try.
    """

    def __init__(
        self, repo_id: str, kind: RepoKind, *, api: HfApi | None = None, attempts: int = 5, wait: float = 1.0
    ) -> None:
        self.repo_id, self.kind, self.api = repo_id, kind, api or HfApi()
        self._attempts, self._wait = attempts, wait
        self._seen: str | None = None  # the commit that identity() found

    def _call(self, call: Callable[[], T]) -> T:
        return retried(call, self._attempts, self._wait)

    def open(self, *, private: bool = False) -> str:
        """Make sure that the token is valid and the repository exists; an existing one stays as private as it is.

        Returns:
            its address.

        Raises:
            ValueError: the token is not accepted.
            OSError: the Hub cannot be reached.
        """
        with hub_errors("repo_id", f"open {self.repo_id}"):
            self._call(self.api.whoami)
            return str(
                self._call(
                    lambda: self.api.create_repo(
                        self.repo_id, repo_type=self.kind, private=private or None, exist_ok=True
                    )
                )
            )

    def collect(self, title: str, *, private: bool = False) -> None:
        """Put the repository into a collection of its owner, which is made if there is none of that title.

        Args:
            title: of the collection.
            private: a new collection is.

        Raises:
            ValueError: the token is not accepted.
            OSError: the Hub cannot be reached, or refuses the title.
        """
        owner = self.repo_id.partition("/")[0]
        with hub_errors("collection", f"put {self.repo_id} into {title!r}"):
            found = self._call(
                lambda: self.api.create_collection(title, namespace=owner, private=private, exists_ok=True)
            )
            self._call(lambda: self.api.add_collection_item(found.slug, self.repo_id, self.kind, exists_ok=True))

    def identity(self, field: str = "repo_id") -> dict[str, Any] | None:
        """The ``env.json`` of what the repository holds, empty if it is not one of ours; None if it holds nothing.

        Raises:
            ValueError: there is no such repository; ``field`` is the setting that named it.
        """
        with hub_errors(field, f"look into {self.repo_id}"):
            commit, names = self._call(lambda: list_files(self.api, self.repo_id, self.kind, "main"))
            self._seen = commit
            if not set(names) - {KEPT}:
                return None
            if "env.json" not in names:
                return {}
            path = self._call(
                lambda: hf_hub_download(
                    self.repo_id, "env.json", repo_type=self.kind, revision=commit,
                    endpoint=self.api.endpoint, token=self.api.token,
                )
            )  # fmt: skip
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def check_same(self, kind: str, run_hash: str) -> bool:
        """Make sure that a push would not overwrite anything but an earlier push of the same run; whether there is one.

        A push of ``main`` follows what was found here: if somebody else is faster, it fails.

        Raises:
            ValueError: it would.
        """
        there = self.identity()
        if there is None or (there.get("kind") == kind and there.get("hash") == run_hash):
            return there is not None
        what = f"a {there['kind']} with config hash {there.get('hash')}" if "kind" in there else "something else"
        raise ValueError(
            f"repo_id: {self.repo_id} holds {what}, and this is a {kind} with config hash {run_hash}; "
            "choose another name, or --force to replace it"
        )

    def _holds(self, commit: str, tree: Path) -> bool:
        """Whether a commit has the files of a folder and no others."""
        found = self._call(
            lambda: self.api.verify_repo_checksums(self.repo_id, repo_type=self.kind, revision=commit, local_dir=tree)
        )
        return not found.mismatches and not found.extra_paths and set(found.missing_paths) <= {KEPT}

    def push(self, tree: Path, *, message: str, revision: str = "main") -> Pushed:
        """Make a revision hold exactly the files of ``tree``, by one commit.

        A commit says which one it follows. So a push whose answer was lost is recognised by its files and not made
        twice, and one that somebody else got ahead of fails instead of mixing both. Large files that an earlier try
        sent are not sent again.

        Args:
            tree: the folder; all of it is pushed.
            message: of the commit.
            revision: a branch; if it is not there, made from the first commit, which holds no model.

        Raises:
            ValueError: a file holds an access token, or the Hub does not accept ours.
            OSError: the Hub cannot be reached, or somebody else pushed meanwhile; nothing has changed there.
        """
        files = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())
        for name in files:
            check_no_secrets(tree / name, name)
        with hub_errors("repo_id", f"push to {self.repo_id}@{revision}"):
            if revision != "main":
                first = self._call(lambda: self.api.list_repo_commits(self.repo_id, repo_type=self.kind))[-1].commit_id
                self._call(
                    lambda: self.api.create_branch(
                        self.repo_id, branch=revision, revision=first, repo_type=self.kind, exist_ok=True
                    )
                )
            commit, changed = self._commit(tree, files, message, revision)
            if changed and not self._holds(commit, tree):
                raise OSError(f"{self.repo_id}@{revision} is not what was pushed; push again")
        prefix = "datasets/" if self.kind == "dataset" else ""
        return Pushed(f"{self.api.endpoint}/{prefix}{self.repo_id}", commit, changed)

    def forget(self, revisions: Collection[str]) -> None:
        """Remove the snapshots that are not among these revisions: what they were of is replaced.

        Raises:
            ValueError: the token is not accepted.
            OSError: the Hub cannot be reached.
        """
        with hub_errors("repo_id", f"remove old snapshots of {self.repo_id}"):
            there = self._call(lambda: self.api.list_repo_refs(self.repo_id, repo_type=self.kind)).branches
            for name in (each.name for each in there):
                if re.fullmatch(r"step-\d+", name) and name not in revisions:
                    self._call(partial(self.api.delete_branch, self.repo_id, branch=name, repo_type=self.kind))

    def _commit(self, tree: Path, files: list[str], message: str, revision: str) -> tuple[str, bool]:
        """(the commit that holds the tree, whether this call made it)."""
        first = self._seen if revision == "main" else None
        for attempt in range(self._attempts):
            head, there = self._call(lambda: list_files(self.api, self.repo_id, self.kind, revision))
            if self._holds(head, tree):
                return head, attempt > 0
            if first is not None and head != first:
                raise OSError(f"somebody else pushed to {self.repo_id}@{revision} meanwhile; look, and push again")
            first = head
            try:
                # Operations remember what was done with them, so that every try needs its own.
                operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
                    *(CommitOperationDelete(name) for name in there if name not in files and name != KEPT),
                    *(CommitOperationAdd(name, str(tree / name)) for name in files),
                ]
                done = self.api.create_commit(
                    self.repo_id, operations, commit_message=message, repo_type=self.kind, revision=revision,
                    parent_commit=head,
                )  # fmt: skip
                return str(done.oid), True
            except HfHubHTTPError as error:
                if error.response is not None and error.response.status_code == 412:
                    raise OSError(f"somebody else pushed to {self.repo_id}@{revision} meanwhile; push again") from error
                self._wait_or_raise(error, attempt)
            except Exception as error:
                self._wait_or_raise(error, attempt)
        raise AssertionError

    def _wait_or_raise(self, error: Exception, attempt: int) -> None:
        if not is_transient(error) or attempt == self._attempts - 1:
            if isinstance(error, RuntimeError) and error.__cause__ is not None:  # how uploads of large files fail
                raise OSError(f"{error}: {' '.join(str(error.__cause__).split())}") from error
            raise error
        time.sleep(self._wait * 2**attempt)
