"""Small things to test with: a 20-symbol task and models of a few thousand parameters."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import datasets
import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import _http
from hypothesis import settings
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from ftmech_hf.jobs import local_pool
from ftmech_hf.tasks import PcfgConfig
from tests import TEST_CUDA
from tests.hub.server import TOKEN, HubServer, serve
from tests.processes import made_once, run_fresh

MEMORY, ENOUGH = Path("/dev/shm"), 4 * 2**30
"""A file system in memory, as Linux has one; and how many bytes must be free there: tests write half a gigabyte."""

if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ENOUGH:
    # what is thrown away at once need not reach a disk: to delete it there takes some tests longer than all else
    os.environ["TMPDIR"], tempfile.tempdir = str(MEMORY), None

torch.set_num_threads(1)
# The same examples every time: a test that fails once in a hundred runs helps nobody. Look for new ones by hand with
# HYPOTHESIS_PROFILE=default.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

Made = TypeVar("Made", PreTrainedModel, dict[str, PreTrainedModel])


gc.disable()  # until all tests are imported: a fourth of the time that torch and the others take


# Workers of many tests are copies of one process: what most of them would load, each by itself, it has loaded here.
local_pool.LOADED += ["ftmech_hf.jobs.probing", "sklearn.linear_model", "matplotlib.figure", "nnsight", "peft"]


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays, and need not be looked through again
    gc.set_threshold(10_000, 10, 50)  # what tests leave behind is looked through fifty times as seldom
    gc.enable()


os.fsync = lambda file: None  # tests stop processes and no machines: what the kernel was given is there


if not TEST_CUDA:
    # Each seed is kept for devices that are not there, with the lines that set it: a hundredth of the whole time.
    for absent in (torch.cuda, torch.xpu, torch.mtia):
        absent._lazy_call = lambda *call, **settings: None  # type: ignore[attr-defined]


def pytest_configure() -> None:
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        del os.environ[name]  # left over from a session with accelerate


LONGEST = (
    "recipes/test_sweep.py", "recipes/test_benchmark.py", "studies/diagnosis/test_diagnosis.py",
    "recipes/test_stories_study.py", "recipes/test_readme.py", "report/test_touch.py",
    "studies/organisms/test_study.py", "models/test_compiled.py", "recipes/test_interruptions.py",
    "explorer/test_page.py", "recipes/test_reproduce.py",
    "activations/test_sites.py", "explorer/test_explorer.py", "studies/diagnosis/test_devices.py",
    "studies/safety/test_page.py", "hub/test_reuse.py",
)  # fmt: skip
"""Files that begin first where several processes share them, so that none waits long for another's last."""


def _turn(item: pytest.Item) -> int:
    name = item.path.relative_to(Path(__file__).parent).as_posix()
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    if not (TEST_CUDA and torch.cuda.is_available()):
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU and TEST_CUDA=1"))


_row_by_row = datasets.Column.__iter__


def _whole_columns_only(column: datasets.Column) -> Iterator[Any]:
    """Reading ``rows[name]`` value by value takes ten times as long as ``rows[name][:]``, which looks the same."""
    module = sys._getframe(1).f_globals.get("__name__", "")
    assert not module.startswith("ftmech_hf"), f"{module} reads a column of a data set row by row, expected [:]"
    return _row_by_row(column)


datasets.Column.__iter__ = _whole_columns_only  # type: ignore[method-assign]


@pytest.fixture
def task() -> PcfgConfig:
    return PcfgConfig(text_length=12, count_window=8, index_occurrence=2, token_at_position=6, min_labels=4)


def make_gpt2(vocab_size: int, *, seed: int = 0, dropout: float = 0.0, attn: str = "eager") -> GPT2LMHeadModel:
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=vocab_size, tie_word_embeddings=False,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        attn_implementation=attn, initializer_range=0.3,  # large enough that nothing looks like rounding
    )  # fmt: skip
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config)
    block = 12 * 16**2 + 13 * 16
    assert model.num_parameters() == 2 * block + 2 * 16 + (2 * vocab_size + 32) * 16
    return model.eval()


def make_llama(vocab_size: int, *, seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=vocab_size, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        attn_implementation="eager", initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()


def make_neox(vocab_size: int, *, seed: int = 0) -> GPTNeoXForCausalLM:
    """Attention and MLP beside each other, and other names for everything."""
    config = GPTNeoXConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=vocab_size,
        max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, attn_implementation="eager",
        initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(config).eval()


def remembered(make: Callable[..., Made]) -> Callable[..., Made]:
    """Makes a model, or several, of every argument once, and gives each caller a copy.

    The tests of a process share what is remembered, and which tests share one differs from run to run: what a test does
    to its model must be no other test's.
    """
    made = functools.cache(make)

    @functools.wraps(make)
    def copied(*arguments: Any) -> Made:
        return copy.deepcopy(made(*arguments))

    return copied


@pytest.fixture(params=["gpt2", "llama", "gpt_neox"])
def any_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return {"gpt2": make_gpt2, "llama": make_llama, "gpt_neox": make_neox}[request.param](40)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty Hub, and a cache of one's own; large files go by plain HTTP."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for each in (_http.http_backoff, inspect.unwrap(_http.http_stream_backoff)):
        defaults = each.__kwdefaults__  # a server that fails is asked again after a second, and then after more
        assert defaults is not None
        monkeypatch.setitem(defaults, "base_wait_time", 0.01)
    with serve() as server:
        yield server


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token=TOKEN)


def client_env(hub: HubServer, home: Path, **more: str) -> dict[str, str]:
    """The environment of a user whose Hub is ours: HF_ENDPOINT is read when the libraries are imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ours = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    return {**kept, **ours, **more}


def run_python(code: str, *argv: str, env: dict[str, str], cwd: Path | None = None) -> str:
    """What a process of its own prints that runs ``code``."""
    done = run_fresh(["-c", code, *argv], env=env, cwd=cwd)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with two snapshots, fine-tuned whole and by an adapter, pruned and probed; and a dataset.

    All of three thousand parameters.
    """
    return made_once(tmp_path_factory, "published", _make_runs)


def _make_runs(folder: Path) -> None:
    from recipes import finetune, make_dataset, pretrain, probe, prune
    from tests.recipes.conftest import CONFIGS, SMALL, TINY

    def argv(recipe: str, name: str, *more: str) -> list[str]:
        return ["--config", str(CONFIGS / "nano" / f"{recipe}.yaml"), "--output_dir", str(folder / name), *more]

    base, tuned = ["--model", str(folder / "base")], ["--model", str(folder / "tuned")]
    pretrain.main(argv("pretrain", "base", *TINY, *SMALL, "--snapshots", "2", "4"))
    finetune.main(argv("finetune", "tuned", *TINY, *base))
    finetune.main(argv("finetune", "lora", *TINY, *base, "--adapter", "lora", "--lora_rank", "2"))
    prune.main(argv("prune", "prune", *tuned, "--sizes", "0", "5", "--score_rows", "32", "--eval_rows", "32"))
    models = ["--models", f"base={folder / 'base'}", f"finetuned={folder / 'tuned'}"]
    probe.main(argv("probe", "probe", *models, "--fit_rows", "80", "--test_rows", "40"))
    make_dataset.main(argv("make_dataset", "rows", "--variants", "pretrain-low", "count_b-c1",
                           "--rows", "train=60", "test=20"))  # fmt: skip
