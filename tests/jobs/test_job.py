from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from ftmech_hf.config import Notice, to_dict
from ftmech_hf.jobs.interpolation import InterpolateConfig, interpolate
from ftmech_hf.jobs.job import JobConfig, ModelJobConfig, finish_job, job, load_named, prepared_job
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import RANDOM_INIT, load_model
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import FinishedRun, RunDir, run_identity
from ftmech_hf.runs.lock import FolderInUse, FolderLock
from ftmech_hf.tasks import PcfgConfig
from tests.conftest import make_gpt2, make_llama
from tests.foreign import save_idle_adapter


@dataclass(frozen=True, kw_only=True)
class CountConfig(JobConfig):
    rows: int = 3
    file: str = field(default="", metadata={"place": "input"})

    def inputs(self) -> dict[str, str]:
        return {"file": Path(self.file).read_text(encoding="utf-8")} if self.file else {}


def count(config: CountConfig, *, fails: bool = False) -> RunDir:
    with job("count", config) as run:
        if run.finished:
            return run
        if fails:
            raise RuntimeError("no power")
        return finish_job(run, [{"row": number} for number in range(config.rows)], {"rows": config.rows})


def test_a_job_is_found_again_by_what_it_computes(tmp_path: Path) -> None:
    config = CountConfig(output_dir=str(tmp_path / "run"))
    first = count(config)
    made = FinishedRun(first.path)
    assert made.is_whole
    assert made.kind == "count"
    assert made.summary == {"rows": 3}
    assert list(made.table["row"]) == [0, 1, 2]
    assert first.hash == run_identity("count", to_dict(config), {})
    assert count(config, fails=True).finished  # it is not computed again
    with pytest.raises(ValueError, match="rows: 3 there, 4 asked"):
        count(CountConfig(output_dir=str(tmp_path / "run"), rows=4))


def test_what_a_job_reads_is_in_its_hash(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    hashes = []
    for content in ("one", "other"):
        corpus.write_text(content, encoding="utf-8")
        hashes.append(count(CountConfig(output_dir=str(tmp_path / content), file=str(corpus))).hash)
    assert hashes[0] != hashes[1]


def test_a_job_is_named_by_what_was_read_for_it(tmp_path: Path) -> None:
    """A file that is written anew meanwhile is not what it computes from, and its name would say so."""
    corpus = tmp_path / "corpus"
    config = CountConfig(output_dir=str(tmp_path / "run"), file=str(corpus))

    def prepare(*, meanwhile: str) -> str:
        read = corpus.read_text(encoding="utf-8")
        corpus.write_text(meanwhile, encoding="utf-8")
        return read

    corpus.write_text("one", encoding="utf-8")
    said = "^file: it changed while it was read"
    with (
        pytest.raises(ValueError, match=said),
        prepared_job(lambda: prepare(meanwhile="other"), "count", config),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    with prepared_job(lambda: prepare(meanwhile="other"), "count", config) as (run, prepared):
        finish_job(run, [{"row": 0}], {"read": prepared()})
    assert FinishedRun(run.path).inputs == {"file": "other"}


def test_a_model_that_is_made_again_while_a_job_reads_it_is_refused(tmp_path: Path) -> None:
    """Its hash is taken behind that: what was computed from the old weights would be said to be of the new ones."""
    model = tmp_path / "model"
    make_llama(20).save_pretrained(model)
    config, models = CountConfig(output_dir=str(tmp_path / "run")), {"base": str(model)}
    make_again = [True]

    def prepare() -> None:
        if make_again.pop():
            make_again.append(False)
            make_llama(20, seed=1).save_pretrained(model)

    with (
        pytest.raises(ValueError, match=r"^base: .*model changed while it was read; try again when nothing writes it"),
        prepared_job(prepare, "count", config, models=models),
    ):
        pass
    with prepared_job(prepare, "count", config, models=models) as (run, _):
        finish_job(run, [{"row": 0}], {})
    assert FinishedRun(run.path).inputs["base"] == model_hash(str(model))


def test_a_model_that_is_made_again_before_a_job_loads_it_is_refused(tmp_path: Path) -> None:
    """Jobs that hold one model at a time load the others when its hash is long taken."""
    places = {name: str(tmp_path / name) for name in ("base", "finetuned")}
    for seed, place in enumerate(places.values()):
        make_llama(20, seed=seed).save_pretrained(place)
    config = ModelJobConfig(output_dir=str(tmp_path / "run"))
    with job("look", config, models=places) as run:
        config.load(places["base"])
        make_llama(20, seed=3).save_pretrained(places["finetuned"])
        with pytest.raises(ValueError, match=r"^finetuned: .*finetuned changed while it was read; try again"):
            load_named(config, places, "finetuned")
        assert not run.finished
        config.load(places["base"])
    config.load(places["finetuned"])  # of no job
    elsewhere = ModelJobConfig(output_dir=str(tmp_path / "other"))
    with job("look", elsewhere, models={"base": places["base"]}):
        make_llama(20, seed=4).save_pretrained(places["finetuned"])
        config.load(places["finetuned"])  # of none of its models


def test_a_job_that_fails_lets_go_of_its_folder_and_leaves_nothing_whole(tmp_path: Path) -> None:
    config = CountConfig(output_dir=str(tmp_path / "run"))
    with pytest.raises(RuntimeError, match="no power"):
        count(config, fails=True)
    assert not (tmp_path / "run").exists()
    with job("count", config) as held:
        assert not held.finished
        with pytest.raises(ValueError, match="another process is writing"):
            count(config)
    assert count(config).finished


def test_nothing_is_made_beside_another_process_that_makes_the_same(tmp_path: Path) -> None:
    """Two pairs of large models may not fit where one does, and who waits would load them again and again."""
    config, made = CountConfig(output_dir=str(tmp_path / "run")), []

    def prepare() -> None:
        made.append(0)

    held = FolderLock(tmp_path / "run")
    assert held.acquire()
    with (
        pytest.raises(FolderInUse, match=r"^output_dir: another process is writing .*run; wait for it or stop it"),
        prepared_job(prepare, "count", config),
    ):
        pass
    assert made == []
    held.release()
    with prepared_job(prepare, "count", config) as (run, _):
        finish_job(run, [{"row": 0}], {})
    assert made == [0]
    held.path.touch()  # left behind by a process that was killed
    with prepared_job(prepare, "count", dataclasses.replace(config, fresh=True)) as (run, _):
        finish_job(run, [{"row": 0}], {})
    assert made == [0, 0]


def test_what_a_job_needs_is_made_before_its_folder_and_not_for_a_run_that_is_there(tmp_path: Path) -> None:
    config, made = CountConfig(output_dir=str(tmp_path / "run")), []

    def prepare() -> int:
        made.append(sorted(path.name for path in tmp_path.iterdir()))
        if len(made) == 1:
            raise ValueError("rows: cannot be asked")
        return 7

    with pytest.raises(ValueError, match="cannot be asked"), prepared_job(prepare, "count", config):
        pass
    with prepared_job(prepare, "count", config) as (run, prepared):
        assert (prepared(), prepared()) == (7, 7)
        finish_job(run, [{"row": 0}], {})
    assert made == [[], []], "nothing was written by then, and it was made once"
    with prepared_job(prepare, "count", config) as (run, _):
        assert run.finished
    assert len(made) == 2


def test_a_replacement_that_was_interrupted_is_gone_on_with(tmp_path: Path) -> None:
    """A finished run lies there, and one that is to replace it was begun: what the job needs is made after all."""
    config = CountConfig(output_dir=str(tmp_path / "run"))
    count(config)
    with pytest.raises(RuntimeError):
        count(dataclasses.replace(config, fresh=True), fails=True)
    with prepared_job(lambda: 7, "count", config) as (run, prepared):
        assert not run.finished
        assert prepared() == 7


@pytest.mark.parametrize("there", [True, False])
def test_an_adapter_is_measured_on_the_base_that_its_hash_is_of(tmp_path: Path, task: PcfgConfig, there: bool) -> None:
    """On the base of the pair, and not on the one that it names, be that there or not."""
    models = {"finetuned": str(tmp_path / "adapter"), "base": str(tmp_path / "base")}
    for number, name in enumerate(("base", "named")):
        make_gpt2(len(task.vocabulary), seed=number).save_pretrained(tmp_path / name)
        save_tokenizer(build_tokenizer(task.vocabulary), tmp_path / name)
    named = tmp_path / ("named" if there else "gone")
    save_idle_adapter(tmp_path / "adapter", named, make_gpt2(len(task.vocabulary)), "c_attn")
    expected = load_model(models["base"]).state_dict()
    config = InterpolateConfig(
        models=[f"{name}={folder}" for name, folder in models.items()], alphas=[0.0], eval_rows=4, save_alpha=0.0,
        output_dir=str(tmp_path / "between"),
    )  # fmt: skip
    with pytest.warns(Notice, match=f"is put on {tmp_path / 'base'}"):
        found = {name: load_named(ModelJobConfig(), models, name) for name in (*models, RANDOM_INIT)}
    with pytest.warns(Notice, match=f"is put on {tmp_path / 'base'}"):
        between = load_model(str(interpolate(config, task).path))
    assert list(found) == ["finetuned", "base", "random init"]
    for model in (found["finetuned"], found["base"], between):
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed: -1 is negative, expected 0 or more"):
        CountConfig(seed=-1)


@pytest.mark.parametrize(("settings", "message"), [
    ({"alphas": []}, "alphas: none, expected at least one"),
    ({"alphas": [0.0, math.nan]}, "alphas: nan, expected finite numbers"),
    ({"save_alpha": math.inf}, "save_alpha: inf, expected finite numbers"),
])  # fmt: skip
def test_points_that_are_nowhere_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InterpolateConfig(**settings)
