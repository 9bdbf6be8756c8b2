from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ftmech_hf.activations import TracedModel, find_units
from ftmech_hf.analysis.pruning import prune_weights, top_mask
from ftmech_hf.jobs.answer_scores import answer_inputs, prefers_answer
from ftmech_hf.jobs.fit_judge import FitJudgeConfig, find_judge, fit_story_judge
from ftmech_hf.jobs.pruning_sweep import behavior_importance
from ftmech_hf.jobs.saved_probes import load_probes
from ftmech_hf.jobs.training import PretrainConfig, pretrain
from ftmech_hf.models.loading import load_model, load_tokenizer
from ftmech_hf.runs import FinishedRun, damaged_files
from ftmech_hf.studies.tinystories.probes import StoryProbeConfig, probe_stories, story_activations
from ftmech_hf.studies.tinystories.prompts import (
    ASKED,
    NOT_ASKED,
    find_stories,
    make_choices,
    make_documents,
    pad_left,
)
from ftmech_hf.studies.tinystories.pruning import StoryPruneConfig, prune_stories, twist_behavior
from ftmech_hf.studies.tinystories.scores import ScoreConfig, score_stories, state_stories
from ftmech_hf.tasks.stories import FEATURES, StoriesConfig, find_evidence, judge, load_judge
from ftmech_hf.training.settings import TrainConfig
from tests.loading import loaded_alone

TASK = StoriesConfig(vocab_size=400, row_tokens=128)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of 20,000 parameters that has hardly learned anything, with a snapshot."""
    folder = str(tmp_path_factory.mktemp("stories") / "base")
    shape: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 256}
    place = PretrainConfig(task="stories", preset="nano-stories", output_dir=folder, **shape)
    train = TrainConfig(
        steps=6, batch_size=4, objective="documents", snapshots=[3], num_evals=1, eval_rows=2, final_eval_rows=2
    )
    pretrain(place, TASK, train)
    return folder


def test_instructions_differ_in_the_feature_alone() -> None:
    stories = find_stories(TASK, "test", 0, 30)
    assert all("Twist" in story.features for story in stories)
    assert not any("Twist" in story.features for story in find_stories(TASK, "test", 0, 30, has=False))
    asked, not_asked = (make_documents(TASK, stories, kind, 0) for kind in (ASKED, NOT_ASKED))
    for first, second in zip(asked, not_asked, strict=True):
        assert first.story == second.story
        assert set(first.named) - set(second.named) == {"Twist"}
        assert "Twist" in first.prompt
        assert "Twist" not in second.prompt


class _Reader(nn.Module):
    """Finds likely what ``rule`` says of the tokens so far: a model whose choices are known."""

    device, config = torch.device("cpu"), PreTrainedConfig()

    def __init__(self, rule: Any) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, input_ids: Tensor, position_ids: Tensor, **options: Any) -> Any:
        logits = torch.zeros(len(input_ids), 1, 1024)
        for number, row in enumerate(input_ids.tolist()):
            logits[number, 0, self.rule(row)] = 1.0
        return SimpleNamespace(logits=logits)


def test_a_choice_is_between_the_twist_and_what_was_expected() -> None:
    task = StoriesConfig()  # in whose vocabulary every animal is one token
    documents = make_documents(task, find_stories(task, "test", 0, 40), ASKED, 0)
    choices = make_choices(task, documents)
    before, shown = choices.prompts()
    twist, belief = choices.first_answers, choices.other
    assert shown is not None
    assert belief is not None
    twists = dict(zip(map(tuple, before.tolist()), twist.tolist(), strict=True))
    width = before.shape[1]

    def whole(row: list[int]) -> tuple[int, ...]:
        return (*[0] * (width - len(row)), *row)

    reader: Any = _Reader(lambda row: twists[whole(row)])
    neither: Any = _Reader(lambda row: -1)
    assert prefers_answer(reader, choices, batch_size=7).all()
    by_chance = prefers_answer(neither, choices)  # neither is likelier
    assert 0.25 < by_chance.float().mean() < 0.75
    token_ids = choices.token_ids.clone()
    token_ids[:, -2] = choices.other
    swapped = dataclasses.replace(choices, token_ids=token_ids, other=choices.token_ids[:, -2])
    assert prefers_answer(neither, swapped, batch_size=3).tolist() == (~by_chance).tolist()
    for number, document in enumerate(documents):
        row = before[number][shown[number]].tolist()
        ids = task.encode(document)
        assert ids[: len(row)] == row
        assert ids[len(row)] == twist[number]
        text = document.story.story
        believed, revealed = (each.slot for each in find_evidence(text, "Twist"))
        expected = text[: revealed[0]] + text[slice(*believed)] + text[revealed[1] :]
        assert judge(text)["Twist"] is True
        assert judge(expected)["Twist"] is False
        other = task.encode(document._replace(story=dataclasses.replace(document.story, story=expected)))
        assert other[: len(row)] == row
        assert other[len(row)] == belief[number] != twist[number]
    with pytest.raises(ValueError, match="no twist in"):
        make_choices(task, make_documents(task, find_stories(task, "test", 0, 2, has=False), ASKED, 0))


def test_choices_are_those_of_rows_without_padding(run: str) -> None:
    model = load_model(run)
    choices = make_choices(TASK, make_documents(TASK, find_stories(TASK, "test", 0, 12), NOT_ASKED, 0))
    found = prefers_answer(model, choices, batch_size=5)
    before, shown = choices.prompts()
    assert shown is not None
    assert choices.other is not None
    for number in range(12):
        logits = model(before[number][shown[number]][None]).logits[0, -1]
        assert bool(logits[choices.first_answers[number]] > logits[choices.other[number]]) == found[number]


def test_scores_are_counts_of_what_the_judge_says(run: str, tmp_path: Path) -> None:
    config = ScoreConfig(
        model=run, at_steps=[3], generations=6, choices=8, max_new_tokens=12, output_dir=str(tmp_path / "score")
    )
    with loaded_alone():
        done = score_stories(config, TASK)
    assert damaged_files(done.path) == []
    content = json.loads((done.path / "summary.json").read_text())
    assert [point["step"] for point in content["points"]] == [3, None]
    assert {score["feature"] for score in content["judge"]} == set(FEATURES)
    table = pd.read_parquet(done.path / "table.parquet")
    assert len(table) == 2 * 2 * 6
    for point in content["points"]:
        at = table[table["step"].isna() if point["step"] is None else table["step"] == point["step"]]
        for kind in (ASKED, NOT_ASKED):
            part = at[at["kind"] == kind]
            verdicts = [judge(text)["Twist"] for text in part["text"]]
            assert point[kind]["has"] == verdicts.count(True)
            assert point[kind]["undecided"] == verdicts.count(None) / 6
            assert point[kind]["low"] <= point[kind]["value"] <= point[kind]["high"]
            assert (part["prompt"].str.contains("Twist") == (kind == ASKED)).all()
    assert table.groupby("step", dropna=False)["text"].apply(tuple).nunique() == 2  # a snapshot is another model
    (said,) = state_stories(FinishedRun(done.path), "")  # of the end, not of the snapshot
    end = {kind: content["points"][-1][kind]["has"] for kind in (ASKED, NOT_ASKED)}
    assert f"`Twist`: {end[ASKED]} of 6 (" in said
    assert f"where the instruction names it, {end[NOT_ASKED]} of 6 (" in said
    before = (done.path / "manifest.json").stat().st_mtime_ns
    score_stories(config, TASK)
    assert (done.path / "manifest.json").stat().st_mtime_ns == before


def test_activations_are_the_means_of_the_last_tokens_of_the_story_alone(run: str) -> None:
    model, tokenizer = load_model(run), load_tokenizer(run)
    stories = find_stories(TASK, "test", 0, 9)
    found = story_activations(TracedModel(model), tokenizer, stories, 10)
    assert list(found) == ["embedding", "block 0", "block 1"]
    for number, story in enumerate(stories):
        ids = torch.tensor([[1, *TASK.backend.encode(story.story).ids]])
        states = model(ids, output_hidden_states=True).hidden_states
        for site, state in (("embedding", states[0]), ("block 0", states[1])):
            torch.testing.assert_close(found[site][number], state[0, -10:].mean(0), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="last_tokens: 500, but a story has only"):
        story_activations(TracedModel(model), tokenizer, stories, 500)


def test_probes_stand_beside_shuffled_labels_random_weights_and_other_words(run: str, tmp_path: Path) -> None:
    config = StoryProbeConfig(
        models=[f"base={run}"], fit_stories=240, test_stories=120, output_dir=str(tmp_path / "probe")
    )
    with loaded_alone():
        done = probe_stories(config, TASK)
    table = pd.read_parquet(done.path / "table.parquet")
    assert set(table["model"]) == {"base", "random init"}
    assert set(table["words"]) == {"seen", "held out"}
    assert set(table["label"]) == set(FEATURES)
    twist = table[(table["label"] == "Twist") & (table["words"] == "seen")]
    assert (twist["majority"] == 0.5).all()
    assert abs(twist["shuffled"].mean() - 0.5) < 0.1
    # in stories of three relations, a quoted saying is seldom there unless it was asked for
    dialogue = table[(table["label"] == "Dialogue") & (table["words"] == "seen")]
    assert (dialogue["accuracy"] > dialogue["majority"] - 0.1).all()
    summary = json.loads((done.path / "summary.json").read_text())
    ours = twist[twist["model"] == "base"]
    assert summary["base"]["Twist"]["accuracy"] == ours["accuracy"].iloc[ours["chosen"].to_numpy().argmax()]
    model, tokenizer = load_model(run), load_tokenizer(run)
    chooses = [story for has in (True, False) for story in find_stories(TASK, "validation", 0, 60, has=has)]
    at = story_activations(TracedModel(model), tokenizer, chooses, 10)
    probe = load_probes(done.path / "probes" / "base", run)["block 1", "Twist"]
    says = probe.predict(at["block 1"])
    (chosen,) = ours[ours["site"] == "block 1"]["chosen"]
    assert float((says == torch.tensor([1] * 60 + [0] * 60)).double().mean()) == pytest.approx(chosen)
    assert (done.path / "probes" / "base.safetensors").is_file()


def test_pruning_reports_what_the_pruned_model_chooses_and_writes(run: str, tmp_path: Path) -> None:
    config = StoryPruneConfig(
        model=run, sizes=[0, 2, 4], max_best_k=4, num_random_at_best=2, prune_stories=10, generations=4,
        max_new_tokens=6, output_dir=str(tmp_path / "prune"),
    )  # fmt: skip
    done = prune_stories(config, TASK)
    summary = json.loads((done.path / "summary.json").read_text())
    model = load_model(run)
    units, behavior = find_units(model, "row"), twist_behavior(config, TASK)
    importance = behavior_importance(model, units, behavior, behavior.train, batch_size=32)
    assert summary["before"][ASKED] == behavior.mean_score(model, behavior.tests[ASKED])
    mask = top_mask(importance, summary["best_k"])
    prune_weights(units, mask)
    for kind in (ASKED, NOT_ASKED):
        assert summary["best"][kind] == behavior.mean_score(model, behavior.tests[kind])
    assert set(summary["stories"]) == {"before", "best", "random"}
    curve = pd.read_parquet(done.path / "table.parquet")
    assert set(curve["method"]) == {"importance", "random"}
    with pytest.raises(ValueError, match="files, feature: pruning needs procedural stories with a twist"):
        prune_stories(config, StoriesConfig(feature="Conflict"))


def test_importance_is_the_slope_of_the_loss(run: str) -> None:
    """Against a finite difference: scaling one row down changes the loss as its importance says."""
    config = StoryPruneConfig(model=run, prune_stories=6)
    model, behavior = load_model(run).double(), twist_behavior(config, TASK)
    units, scored = find_units(model, "row"), behavior.train
    importance = behavior_importance(model, units, behavior, scored)
    name = max(importance, key=lambda each: float(importance[each].abs().max()))
    row = int(importance[name].abs().argmax())

    def loss() -> float:
        with torch.no_grad():
            logits = model(**answer_inputs(model, scored), logits_to_keep=1).logits[:, -1].double()
        return float(nn.functional.cross_entropy(logits, scored.first_answers))

    before, group = loss(), units[name]
    places = group.places(torch.tensor([row])).flatten()
    weight, axis = group.weight.detach(), group.axis
    weight.index_copy_(axis, places, weight.index_select(axis, places) * 0.999)
    assert (before - loss()) / 0.001 == pytest.approx(float(importance[name][row]), rel=0.05)


@pytest.mark.parametrize("number", [0, 1, 9])
def test_a_judge_is_not_fitted_to_next_to_no_stories(tmp_path: Path, number: int) -> None:
    """What scikit-learn says of empty arrays tells nobody what to do."""
    file = tmp_path / "few.txt"
    file.write_text("<|endoftext|>\n".join(f"Once there was dog {each}.\n" for each in range(number)))
    with pytest.raises(ValueError, match=rf"^files: {number} different stories in .*few.txt, expected at least 10$"):
        fit_story_judge(FitJudgeConfig(files=[str(file)], output_dir=str(tmp_path / "judge")))
    assert not (tmp_path / "judge").exists()


def test_a_judge_is_fitted_kept_and_found(tmp_path: Path) -> None:
    config = FitJudgeConfig(fit_stories=300, test_stories=200, output_dir=str(tmp_path / "judge"))
    done = fit_story_judge(config)
    assert damaged_files(done.path) == []
    found, scores = find_judge(str(done.path))
    assert scores == list(load_judge(done.path).scores)
    card = (done.path / "README.md").read_text()
    assert "Twist by classifier" in card
    assert "at chance: not judged" in card
    verdict = found(find_stories(TASK, "test", 0, 1)[0].story)
    assert verdict["Twist"] is None
    exact, known = find_judge("exact")
    assert exact is judge
    assert np.mean([score.value for score in known]) == 1
    with pytest.raises(ValueError, match="files: there is no nowhere"):
        FitJudgeConfig(files=["nowhere"])


def test_rows_are_padded_on_the_left() -> None:
    token_ids, mask = pad_left([[5, 6, 7], [8]])
    assert token_ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
