"""The same questions of any model and what it was tuned into: does it refuse, where do prompts lie, what changed?

Two data sets with the same columns: safe prompts with their answers, unsafe ones with refusals. A refusal is what
begins with the token with which most refusals of the training rows begin; beside it stands whether the model writes one
of their refusals whole. Means and directions are of training rows,
layers are chosen on validation rows, and what is reported is of test rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import intervene
from ftmech_hf.analysis.direction import Writes, put_in, taken_out
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, job, load_named, one_by_one
from ftmech_hf.jobs.prompts import from_datasets
from ftmech_hf.jobs.questions import QuestionConfig
from ftmech_hf.jobs.tokenizers import check_same_tokens
from ftmech_hf.models.configs import model_config, model_positions
from ftmech_hf.models.identity import base_for
from ftmech_hf.models.likeliest import likeliest
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.report.claims import claims_json
from ftmech_hf.runs import RunDir, write_json
from ftmech_hf.statistics.clusters import share_right
from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.statistics.intervals import mean_interval
from ftmech_hf.studies.safety.asked import KINDS, Asked
from ftmech_hf.studies.safety.changes import log_action, mlp_inputs, random_like, reading_matrices, weight_rows
from ftmech_hf.studies.safety.clusters import equally_many, own_sides, prompt_batches, prompt_states, sides_by_chance
from ftmech_hf.studies.safety.direction import DRAWS, refusal_directions
from ftmech_hf.studies.safety.texts_page import write_page
from ftmech_hf.tasks.text.identity import dataset_hash
from ftmech_hf.training.loop import Progress

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class TextsConfig(ModelJobConfig):
    """Which models are compared, and what they are asked."""

    base: str = field(default="", metadata={"place": "input", "help": "the model before: a folder, or on the Hub"})
    finetuned: str = field(default="", metadata={"place": "input", "help": "what it was tuned into"})
    benign: str = field(
        default="", metadata={"place": "input", "help": "what it was tuned into without refusals: the control, if any"}
    )
    safe: str = field(default="", metadata={"place": "input", "help": "data set of safe prompts and their answers"})
    unsafe: str = field(default="", metadata={"place": "input", "help": "data set of unsafe prompts and refusals"})
    rows: int = field(default=64, metadata={"help": "test prompts of each kind at most, and as many to fit and choose"})
    refusals: int = field(
        default=16, metadata={"help": "different refusals of the training rows, the most frequent, that count whole"}
    )
    choice_rows: int = field(
        default=16, metadata={"help": "validation prompts that the direction's layer is chosen on"}
    )
    cut_seed: int = field(
        default=0,
        metadata={"unsaid": True, "help": "of the cut, where a dataset has no test split: the one of the training"},
    )
    draws: int = field(default=DRAWS, metadata={"help": "random directions, the control"})
    output_dir: str = field(default="runs/safety-texts", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "refusals", "choice_rows", "draws")
        if self.rows < 2:
            raise ValueError(f"rows: {self.rows}, expected at least 2, of which prompts of a kind have a mean")
        if self.cut_seed < 0:
            raise ValueError(f"cut_seed: {self.cut_seed} is negative, expected 0 or more")
        for name in ("base", "finetuned", *KINDS):
            if not getattr(self, name):
                raise ValueError(
                    f"{name}: not given, expected base and finetuned models, and safe and unsafe data sets"
                )

    @property
    def models(self) -> dict[str, str]:
        """Name -> folder of every model."""
        found = {"base": self.base, "finetuned": self.finetuned, "benign": self.benign}
        return {name: folder for name, folder in found.items() if folder}

    def inputs(self) -> dict[str, str]:
        """The data sets, by what is in them.

        Raises:
            ValueError: both are the same, whatever they are called.
        """
        found = {name: dataset_hash(getattr(self, name)) for name in KINDS}
        if found["safe"] == found["unsafe"]:
            raise ValueError(f"unsafe: {self.unsafe} is the same as safe: {self.safe}, expected other prompts")
        return found


def read_asked(config: TextsConfig) -> Asked:
    """Both data sets in the tokens of the models.

    Raises:
        ValueError: they cannot be asked, or the models read other tokens.
    """
    folders = list(config.models.values())
    if (blocks := model_config(config.base).get_text_config().num_hidden_layers) < 2:
        raise ValueError(f"base: {config.base} has {blocks} block, expected two or more: the last is left out")
    tokenizer = load_tokenizer(config.base)
    read = (model_positions(folder, **base_for(name, config.models)) for name, folder in config.models.items())
    positions = [found for found in read if found is not None]
    settings: dict[str, Any] = {
        "seed": config.seed, "train_rows": config.rows, "test_rows": config.rows,
        "positions": min(positions, default=None), "how": QuestionConfig(cut_seed=config.cut_seed),
    }  # fmt: skip
    found = dict(zip(KINDS, from_datasets([config.safe, config.unsafe], tokenizer, **settings), strict=True))
    for kind in KINDS:
        (alone,) = from_datasets([getattr(config, kind)], tokenizer, **settings)
        check_same_tokens(alone, getattr(config, kind), folders, tokenizer, **settings)
    firsts, counts = found["unsafe"].train.first_answers.unique(return_counts=True)
    written = Counter(found["unsafe"].train.answer_ids())
    return Asked(found, int(firsts[counts.argmax()]), tuple(each for each, _ in written.most_common(config.refusals)))


@torch.no_grad()
def first_tokens(model: PreTrainedModel, prompts: Tensor, shown: Tensor | None) -> Tensor:
    """Log-probabilities of the token after every prompt, (B, V)."""
    parts = [
        model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float().log_softmax(-1).cpu()
        for inputs in prompt_batches(model, prompts, shown, BATCH)
    ]
    return torch.cat(parts)


def refuses(model: PreTrainedModel, asked: Asked, kind: str, writes: Writes | None = None) -> NDArray[np.bool_]:
    """Whether the answer to each test prompt of a kind begins as a refusal does."""
    with intervene(model, writes or {}):
        found: NDArray[np.bool_] = (
            likeliest(first_tokens(model, *asked.prompts("test", kind))) == asked.refusal
        ).numpy()
    return found


def refusal_row(
    model: PreTrainedModel, asked: Asked, kind: str, writes: Writes | None = None
) -> dict[str, str | float | int]:
    """The share of the test prompts of a kind that is refused with its interval, and that which is refused whole.

    Greedy decoding writes a refusal if every token of it is the most likely one after those before it, which takes one
    pass for each refusal.
    """
    found = refuses(model, asked, kind, writes)
    with intervene(model, writes or {}):
        whole = asked.kinds["unsafe"].score(model, asked.refused_whole(kind))
    share = share_right(found, asked.kinds[kind].test.groups)
    return {"mixture": kind, **share._asdict(), "rows": len(found), "whole": float(whole.double().mean())}


def cluster_rows(name: str, model: PreTrainedModel, asked: Asked, seed: int) -> Iterator[dict[str, Any]]:
    """Where both kinds lie, layer by layer; kinds by chance beside it. ``chosen`` marks the layer of the validation."""
    fitted, tried, shown = (
        equally_many([prompt_states(model, *asked.prompts(split, kind), batch_size=BATCH) for kind in KINDS])
        for split in ("train", "validation", "test")
    )
    best = int(np.argmax([each.mean() for each in own_sides(tried, fitted)[0]]))
    chance, taus = sides_by_chance(shown, fitted, seed=seed)
    groups = asked.groups(len(shown[0][0]))
    for layer, (right, tau) in enumerate(zip(*own_sides(shown, fitted), strict=True)):
        about = {"model": name, "layer": layer, "chosen": layer == best}
        share = share_right(right, groups)
        yield {"quantity": "tau", **about, "value": tau, "own_side": share.value, "low": share.low,
               "high": share.high, "rows": len(right)}  # fmt: skip
        # Of draws and not of prompts, see sides_by_chance.
        drawn = mean_interval([float(each.mean()) for each in chance[:, layer]])
        yield {"quantity": "tau, shuffled kinds", **about, "value": float(taus[:, layer].mean()),
               "own_side": drawn.value, "low": drawn.low, "high": drawn.high, "rows": len(chance)}  # fmt: skip


def change_rows(
    name: str, base: PreTrainedModel, tuned: PreTrainedModel, asked: Asked, seed: int
) -> Iterator[dict[str, Any]]:
    """Where a change lies, and how strongly it acts on unsafe prompts beside safe ones: differences of logarithms."""
    for row in weight_rows(base, tuned, seed=seed):
        yield {**row, "model": name}
    before, after = reading_matrices(base), reading_matrices(tuned)
    deltas = {key: (after[key] - weight).float() for key, weight in before.items()}
    deltas = {key: delta for key, delta in deltas.items() if delta.any()}  # what did not change does not act
    if not deltas:
        return
    entered = {kind: mlp_inputs(tuned, *asked.prompts("test", kind), batch_size=BATCH) for kind in KINDS}
    for label, each in (("action", deltas), ("action of a random change", random_like(deltas, seed))):
        safe, unsafe = (log_action(each, before, entered[kind]) for kind in KINDS)
        error = float(np.sqrt(safe.var(ddof=1) / len(safe) + unsafe.var(ddof=1) / len(unsafe)))
        value = float(unsafe.mean() - safe.mean())
        yield {"quantity": label, "model": name, "value": value, "low": value - 2 * error, "high": value + 2 * error,
               "rows": len(safe)}  # fmt: skip


def chosen_directions(model: PreTrainedModel, asked: Asked, rows: int) -> tuple[tuple[int, Tensor], tuple[int, Tensor]]:
    """(layer, direction) to be taken out, and to be put in: each chosen by its effect on validation prompts."""
    found = refusal_directions(
        *(prompt_states(model, *asked.prompts("train", kind), batch_size=BATCH) for kind in KINDS)
    )

    def likely(writes: Writes, kind: str) -> float:
        prompts, shown = asked.prompts("validation", kind)
        with intervene(model, writes):
            logs = first_tokens(model, prompts[:rows], None if shown is None else shown[:rows])
        return float(logs[:, asked.refusal].mean())

    out = min(range(len(found)), key=lambda layer: likely(taken_out(model, found[layer]), "unsafe"))
    into = max(range(len(found)), key=lambda layer: likely(put_in(model, found[layer], layer), "safe"))
    return (out, found[out]), (into, found[into])


def direction_rows(
    model: PreTrainedModel, asked: Asked, rows: int, seed: int, draws: int = DRAWS
) -> Iterator[dict[str, Any]]:
    """Refusals of unsafe prompts without the direction, and of safe ones with it; beside random directions.

    The interval of random ones, whose row is their mean, is over directions as well as over prompts.
    """
    (out, less), (into, more) = chosen_directions(model, asked, rows)
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(more.shape, generator=generator) for _ in range(draws)]
    for what, kind, layer, real in (("taken out", "unsafe", out, less), ("put in", "safe", into, more)):

        def writes(direction: Tensor, what: str = what, layer: int = layer) -> Writes:
            return taken_out(model, direction) if what == "taken out" else put_in(model, direction, layer)

        about = {"quantity": what, "model": "finetuned", "layer": layer}
        yield {**about, "direction": "refusal", **refusal_row(model, asked, kind, writes(real))}
        by_chance = [refuses(model, asked, kind, writes(each * real.norm() / each.norm())) for each in drawn]
        share = mean_over_draws(np.array(by_chance), asked.kinds[kind].test.groups)
        yield {**about, "direction": "random", "mixture": kind, **share._asdict(), "rows": len(by_chance[0]),
               "draws": draws}  # fmt: skip


def measure_texts(config: TextsConfig, *, progress: Progress | None = None) -> RunDir:
    """What models refuse, where prompts lie in them, what changed between them, and whether one direction does it."""
    with job("safety_texts", config, models=config.models) as run:
        if run.finished:
            return run
        asked = read_asked(config)
        base = config.load(config.base)
        table: list[dict[str, Any]] = []
        for done, name in one_by_one(config.models):
            model = base if name == "base" else load_named(config, config.models, name)
            table += ({"quantity": "refused", "model": name, **refusal_row(model, asked, kind)} for kind in KINDS)
            table += cluster_rows(name, model, asked, config.seed)
            if name != "base":
                table += change_rows(name, base, model, asked, config.seed)
            if name == "finetuned":
                table += direction_rows(model, asked, config.choice_rows, config.seed, config.draws)
            del model
            if progress is not None:
                progress(done, len(config.models), name)
        page, summary, claims = write_page(table, config.seed, run.hash)
        write_json(run.working / "claims.json", claims_json(claims))
        return finish_job(run, table, summary, lambda _: page)
