"""Cards: the README.md of a run, filled from the run's own files.

This sits below training because a run folder is whole only with its card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import ModelCardData

from ftmech_hf.intervals import share_interval
from ftmech_hf.runs import describe_versions, read_metrics, write_text

DESCRIPTIONS = {
    "pretrain": "Trained from scratch on next-token prediction.",
    "finetune": "Fine-tuned on the answers of one capability.",
    "reverse_finetune": "Fine-tuned back on a capability that an earlier fine-tuning may have hidden.",
}


def _template(name: str) -> jinja2.Template:
    installed = Path(str(resources.files("ftmech_hf"))) / "model_cards"
    beside = installed.parents[1] / "model_cards"
    folders = [str(folder) for folder in (installed, beside)]
    env = jinja2.Environment(loader=jinja2.FileSystemLoader(folders), undefined=jinja2.StrictUndefined)
    return env.get_template(name)


def render_card(template: str, **values: Any) -> str:
    """Fill a template of ``model_cards/``; a value it needs and does not get is an error."""
    return _template(template).render(**values)


def final_accuracy(folder: Path) -> list[dict[str, Any]]:
    """Accuracy on every test set after the last step, with its 95 % Wilson interval: name, value, low, high."""
    last = read_metrics(folder)[-1]
    rows = []
    for key, value in last.items():
        if key.startswith("accuracy/"):
            right = round(value * last["eval_rows"])
            _, low, high = share_interval(right, last["eval_rows"])
            rows.append({"name": key.removeprefix("accuracy/"), "value": value, "low": low, "high": high})
    return rows


def write_model_card(folder: Path, *, example: Mapping[str, Any]) -> None:
    """Write ``README.md`` for the run in ``folder``, which holds its config, env, metrics and weights already.

    Args:
        folder: a run folder about to be finished.
        example: a test row, in the columns of a task's dataset, for the usage example.
    """
    env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    name = Path(config["output_dir"]).name
    metadata = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["ftmech_hf", "interpretability", "procedural", env["kind"]],
    )
    text = render_card(
        "model.md.j2",
        metadata=metadata.to_yaml(),
        title=name,
        what=DESCRIPTIONS[env["kind"]],
        adapted=(folder / "adapter_config.json").is_file(),
        where=config["output_dir"],
        prompt=example["prompt"],
        answer=example["answer"],
        accuracy=final_accuracy(folder),
        eval_rows=config["final_eval_rows"],
        kind=env["kind"],
        env=env,
        config=config,
        versions=describe_versions(env),
    )
    write_text(folder / "README.md", text)
