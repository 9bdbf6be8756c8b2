"""Cards: the README.md of a run, filled from the run's own files.

A run folder is whole only with its card.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import jinja2
from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from ftmech_hf.downloads import check_repo_id
from ftmech_hf.jobs.papers import OF_TASK, PAPER, PAPERS, Paper
from ftmech_hf.runs import FinishedRun, describe_versions, write_text


@functools.cache
def _templates() -> jinja2.Environment:
    """Those of ``model_cards/``; each is compiled when it is first filled, and again once its file has changed."""
    installed = Path(str(resources.files("ftmech_hf"))) / "model_cards"
    beside = installed.parents[1] / "model_cards"
    folders = [str(folder) for folder in (installed, beside)]
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    env.filters |= {"python": _in_python, "plain": in_markdown}
    return env


def in_markdown(text: str) -> str:
    """A text for a line or a cell of a table: its brackets are no tags, links or pictures, its bars end no cell."""
    for letters, written in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("](", "]\\("), ("][", "]\\["), ("\n", " ")):
        text = text.replace(letters, written)
    return text


def _in_python(text: str) -> str:
    """A text as Python writes it, in double quotes; the block of code around it goes on whatever is in it."""
    return json.dumps(text, ensure_ascii=False).replace("`", "\\x60")


def render_card(template: str, **values: Any) -> str:
    """Fill a template of ``model_cards/``; a value it needs and does not get is an error."""
    return _templates().get_template(template).render(**values)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What a diagnosis says, for the card of one of its two models.

    Attributes:
        role: ``base`` or ``finetuned``, whichever the card's model was in it.
        verdict, reason: of the diagnosis.
        capability: what was asked about.
        accuracy: (model, share of right answers with its interval).
        rows: how many questions; None if that is not known.
        signs: name, measured, control, bar and shows (yes or no) of everything that says that it is still there.
        base_hash, finetuned_hash: of the runs that made the two models.
        hash: of the diagnosis.
        trust: how often such a verdict was right, and whether that is known of such models.
        page: its page beside the card.
        repository: where the diagnosis is published.
    """

    role: str
    verdict: str
    reason: str
    capability: str
    accuracy: Sequence[tuple[str, str]]
    rows: int | None
    signs: Sequence[Mapping[str, str]]
    base_hash: str
    finetuned_hash: str
    hash: str
    trust: str = ""
    page: str | None = None
    repository: str | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a card can say of a model once it is on the Hub, beyond what its run's files say.

    Attributes:
        repo_id: where it is.
        base_model: repository of the model it was trained from.
        ancestor: that of the last one before it that is published, where what it was trained from is not.
        start: what is said of the run that it started from, behind its hash.
        base_revision: of that.
        datasets: repositories of rows it was trained on.
        statements: what its files show, a sentence each.
        diagnoses: what diagnoses say of it.
        claims: claims over seeds that it is part of: statement, floor, measured, interval, bar, verdict.
        differences: what was done otherwise than in the paper: what, paper, here.
        pictures: file beside the card -> what it shows.
        revisions: names of its snapshots.
        papers: numbers at arXiv of the papers whose question its study asks, where that is not its task's paper.
        command: what makes it again with what it starts from.
    """

    repo_id: str
    base_model: str | None = None
    ancestor: str | None = None
    start: str = ""
    base_revision: str | None = None
    datasets: Sequence[str] = ()
    statements: Sequence[str] = ()
    diagnoses: Sequence[Diagnosis] = ()
    claims: Sequence[Mapping[str, str]] = ()
    differences: Sequence[Mapping[str, str]] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    revisions: Sequence[str] = ()
    papers: Sequence[str] = ()
    command: str = ""


FOREIGN = {"license": "other", "license_name": "as-its-base-model-and-its-data"}
"""What a card's header says of the licence of what is not made of our own parts alone."""


def license_of(config: Mapping[str, Any], env: Mapping[str, Any]) -> dict[str, str]:
    """What a card's header says of the licence: our own where all that it is made of is ours.

    Args:
        config: of a run.
        env: of the same, which names the models and files that it took.
    """
    foreign = [name for name, content in env.get("contents", {}).items() if content == env["inputs"].get(name)]
    if config.get("task") == "text" or config.get("dataset") or config.get("files") or foreign:
        return dict(FOREIGN)
    return {"license": "apache-2.0"}


def library_of(*, compiled: bool, adapted: bool) -> dict[str, str]:
    """With what a model is loaded, as the Hub says it beside a model; a compiled program writes no text."""
    if compiled:
        return {"library_name": "ftmech_hf"}
    return {"library_name": "peft" if adapted else "transformers", "pipeline_tag": "text-generation"}


def _eval_results(
    config: Mapping[str, Any], env: Mapping[str, Any], datasets: Sequence[str],
    accuracy: Sequence[Mapping[str, Any]], loss: Sequence[Mapping[str, Any]], eval_rows: int,
) -> list[EvalResult]:  # fmt: skip
    """What was measured as the Hub's model index knows it: accuracies, each with its interval, or losses."""

    is_text = config["task"] == "text"
    answered = "Answer to a prompt" if is_text else "Answer of a procedural question"

    def result(task: str, test_set: str, kind: str, name: str, value: float, **more: Any) -> EvalResult:
        return EvalResult(
            task_type="text-generation",
            task_name=task,
            dataset_type=datasets[0] if datasets else str(config["task"]),
            dataset_name=f"{config['task']}: {test_set}",
            dataset_config=test_set,  # without it the Hub's index puts all under the first
            dataset_split="test",
            metric_type=kind,
            metric_name=f"{name}, {test_set}",
            metric_value=round(value, 6),
            metric_args={
                **more,
                "rows": eval_rows,
                "seed": config["seed"],
                "config_hash": env["hash"],
            },
        )

    answers = [
        result(
            answered, row["name"], "accuracy", "answer accuracy", row["value"],
            confidence_level=0.95,
            confidence_interval=[round(float(row["low"]), 6), round(float(row["high"]), 6)],
        )
        for row in accuracy
    ]  # fmt: skip
    losses = [
        result(
            "Text" if is_text else "Stories written to instructions", row["name"], "loss", f"nats per {unit}", row[key]
        )
        for row in loss
        for unit, key in (("token", "value"), ("byte", "per_byte"))
    ]
    return [*answers, *losses]


def _header(
    config: Mapping[str, Any], env: Mapping[str, Any], hub: Published, title: str, papers: Sequence[Paper], *,
    adapted: bool, compiled: bool, accuracy: Sequence[Mapping[str, Any]], loss: Sequence[Mapping[str, Any]],
    eval_rows: int,
) -> ModelCardData:  # fmt: skip
    """What stands between the lines of a model's card that only the Hub reads."""
    is_text = config["task"] == "text"
    results = _eval_results(config, env, hub.datasets, accuracy, loss, eval_rows)
    more: dict[str, Any] = {**license_of(config, env), **library_of(compiled=compiled, adapted=adapted)}
    if base_model := hub.base_model or hub.ancestor:
        more["base_model_relation"] = "adapter" if adapted else "finetune"
    return ModelCardData(
        tags=[
            "ftmech_hf",
            "interpretability",
            "text" if is_text else "procedural",
            env["kind"],
            *(f"arxiv:{each.number}" for each in papers),
        ],
        datasets=list(hub.datasets) or None,
        metrics=[*(["accuracy"] if accuracy or not loss else []), *(["loss"] if loss else [])],
        model_name=title,
        eval_results=results or None,
        base_model=base_model,
        **more,
    )


def write_model_card(
    folder: Path, *, what: str, example: Mapping[str, Any], published: Published | None = None
) -> None:
    """Write ``README.md`` for the run in ``folder``, which holds its config, env, metrics and weights already.

    Args:
        folder: a run folder about to be finished, or to be published.
        what: what was done to the model, in a sentence.
        example: a test row, in the columns of a task's dataset, for the usage example.
        published: where it goes and what more is known, if it goes to the Hub.
    """
    run = FinishedRun(folder)
    env, config, hub = run.env, run.config, published or Published(repo_id="")
    paper = OF_TASK.get(config["task"], PAPER)
    asked = [PAPERS[number] for number in hub.papers if number != paper.number]
    where = hub.repo_id or str(config["output_dir"])
    title = Path(where).name
    adapted = (folder / "adapter_config.json").is_file()
    accuracy, loss = run.accuracy, run.loss
    is_text, eval_rows = config["task"] == "text", run.metrics[-1]["eval_rows"] if run.metrics else 0
    shape = folder / "config.json"
    model = json.loads(shape.read_text(encoding="utf-8")) if shape.is_file() else {}
    compiled = model.get("model_type") == "compiled_program"
    metadata = _header(config, env, hub, title, [paper, *asked], adapted=adapted, compiled=compiled, accuracy=accuracy,
                       loss=loss, eval_rows=eval_rows)  # fmt: skip
    text = render_card(
        "text.md.j2" if is_text else "model.md.j2",
        metadata=metadata.to_yaml(),
        title=title,
        what=what,
        compiled=compiled,
        answer_at=model.get("answer_position", -1),
        adapted=adapted,
        where=where,
        hub=hub,
        prompt=example["prompt"],
        answer=example["answer"],
        accuracy=accuracy,
        loss=loss,
        eval_rows=eval_rows,
        kind=env["kind"],
        env=env,
        config=config,
        versions=describe_versions(env),
        licence=license_of(config, env)["license"],
        paper=paper,
        asked=asked,
        planted=any("_cte" in row["name"] for row in accuracy),
        uniform=math.log(model.get("vocab_size", 1)),
    )
    write_text(folder / "README.md", text)


def check_card(text: str, kind: Literal["model", "dataset"]) -> None:
    """Check a card's header with the Hub client's own rules, as far as they need no network.

    Raises:
        ValueError: it has none, or one that the Hub would not understand.
    """
    card: ModelCard | DatasetCard = ModelCard(text) if kind == "model" else DatasetCard(text)
    header = card.data.to_dict()
    for name in ("license", "tags"):
        if not header.get(name):
            raise ValueError(f"card: its header has no {name}")
    if (results := header.get("model-index")) is not None:
        again = eval_results_to_model_index(*model_index_to_eval_results(results))
        if again != results:
            raise ValueError("card: its model-index is not what the Hub reads from it")
    for repo_id in [*_as_list(header.get("base_model")), *_as_list(header.get("datasets"))]:
        check_repo_id("card", repo_id)


def _as_list(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
