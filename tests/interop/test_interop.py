"""Other people's libraries on what we publish; run by ``make test-interop`` in an environment of their own."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import client_env, run_python
from tests.hub.server import USER, HubServer, serve
from tests.interop.checks import CHECKS

pytestmark = pytest.mark.interop
RESULTS = os.environ.get("INTEROP_RESULTS")
"""Where to write what was verified; nowhere if not set."""


@pytest.fixture(scope="module")
def published(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    code = f"""
from recipes import publish
for name, more in {{"base": [], "lora": ["--base_model", "{USER}/base"], "rows": []}}.items():
    publish.main(["--run", "{runs}/" + name, "--repo_id", "{USER}/" + name, *more])
"""
    with serve() as server:
        env = client_env(server, tmp_path_factory.mktemp("home"))
        run_python(code, env=env)
        yield server


@pytest.fixture(scope="module")
def verified() -> Iterator[list[dict[str, str]]]:
    rows: list[dict[str, str]] = []
    yield rows
    if RESULTS and len(rows) == len(CHECKS):  # a table is written of all or of none
        Path(RESULTS).parent.mkdir(parents=True, exist_ok=True)
        Path(RESULTS).write_text(json.dumps({"rows": rows}, indent=2) + "\n")


@pytest.mark.parametrize("name", CHECKS)
def test_it_works_without_us(name: str, published: HubServer, verified: list[dict[str, str]], tmp_path: Path) -> None:
    check = CHECKS[name]
    versions = [f"{package} {importlib.metadata.version(package)}" for package in check.packages]  # missing: an error
    code = f"import sys\nsys.modules['ftmech_hf'] = None\nuser = {USER!r}\n{check.code}"
    env = {**client_env(published, tmp_path / "home"), "HF_TOKEN": "", "PYTHONPATH": ""}
    run_python(code, env=env, cwd=tmp_path)
    verified.append({"library": name, "versions": ", ".join(versions), "shows": check.shows})
