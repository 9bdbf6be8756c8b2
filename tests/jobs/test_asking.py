"""Jobs that are asked a data set, in a model's own tokenizer, with answers of several tokens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

from ftmech_hf.activations import find_units
from ftmech_hf.config import Notice
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.asking import AskConfig, asked_settings, asked_vocabulary, find_capability, parse_asked
from ftmech_hf.jobs.attention import _groups
from ftmech_hf.jobs.behavior import Behavior, from_task
from ftmech_hf.jobs.prompts import FIRST_TOKEN, from_datasets
from ftmech_hf.jobs.pruning import PruneConfig
from ftmech_hf.jobs.pruning_sweep import behavior_importance, exact_importance, prune_for
from ftmech_hf.jobs.publication import asked_name
from ftmech_hf.jobs.saved_probes import load_probes
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.runs import FinishedRun, damaged_files
from ftmech_hf.tasks import CounterConfig, LibraryConfig, PcfgShape, RowStream, for_capability
from ftmech_hf.training.evaluation import answer_accuracy
from recipes import attention, compile_program, pretrain, probe, prune
from tests.architectures import make
from tests.conftest import make_gpt2, make_llama
from tests.foreign import save_idle_adapter
from tests.jobs.lexicon import (
    LAYER,
    LEXICON,
    NEURON,
    VOCABULARY,
    WRONG,
    hide,
    make_speaker,
    save,
    spoken,
    write_questions,
)
from tests.recipes.conftest import TINY

PLANTED = f"mlp_act.{LAYER}[{NEURON}]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions, a model that answers them and one in which a neuron hides the answers."""
    root = tmp_path_factory.mktemp("asking")
    questions = write_questions(root / "questions.parquet")
    save(make_speaker(questions), root / "speaks")
    save(hide(make_speaker(questions)), root / "hides")
    return root


def find_behavior(folder: Path) -> Behavior:
    settings: dict[str, Any] = {"seed": 0, "train_rows": 64, "test_rows": 40}
    return from_datasets([str(folder / "questions.parquet")], build_tokenizer(VOCABULARY), **settings)[0]


def test_rows_of_a_data_set_have_answers_of_several_tokens(folder: Path) -> None:
    behavior = find_behavior(folder)
    assert sorted(set(behavior.test.lengths.tolist())) == [1, 2, 3]
    for row, answer in zip(behavior.test.token_ids.tolist(), behavior.test.answer_ids(), strict=True):
        words = [VOCABULARY[token] for token in row if token != behavior.pad]
        asked = words[words.index("?") - 1]
        assert behavior.spell(answer) == LEXICON[asked]
        assert words[words.index("?") + 1 :] == [*LEXICON[asked].split(), "<eos>"]
    assert list(behavior.test.labels) == [FIRST_TOKEN]
    assert behavior.test.labels[FIRST_TOKEN].tolist() == behavior.test.first_answers.tolist()
    # the floor is that of whole answers, not of their first tokens, which four of eight words share
    assert behavior.again is not None
    texts = [behavior.spell(answer) for answer in behavior.again.answer_ids()]
    assert len(texts) > len(behavior.train)  # more than are fitted on
    most = max(sorted(set(texts)), key=texts.count)
    tested = [behavior.spell(answer) for answer in behavior.test.answer_ids()]
    assert behavior.chance == pytest.approx(tested.count(most) / len(tested))


def test_a_model_is_right_where_it_writes_the_answer(folder: Path) -> None:
    behavior, model = find_behavior(folder), make_speaker(str(folder / "questions.parquet"))
    said = spoken(model, behavior.test)
    right = [tuple(each) == answer for each, answer in zip(said, behavior.test.answer_ids(), strict=True)]
    assert behavior.score(model, behavior.test).tolist() == right
    assert np.mean(right) > 0.95
    hidden = hide(model)
    assert behavior.mean_score(hidden, behavior.test) == 0
    assert {VOCABULARY[each[0]] for each in spoken(hidden, behavior.test)} == {WRONG}


def test_a_planted_neuron_is_pruned_and_the_answers_come_back(folder: Path) -> None:
    behavior, model = find_behavior(folder), hide(make_speaker(str(folder / "questions.parquet")))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings: dict[str, Any] = {"unit": "activation", "sizes": [0, 1, 2], "num_random_at_best": 3}
    found = prune_for(model, behavior, **settings)
    assert found.pruning.pruned == [PLANTED]
    assert found.pruning.at_best("importance", "test") > 0.9
    assert found.pruning.at_best("random", "test") < 0.1
    assert found.at_best("importance", "test")[0].double().mean() == found.pruning.at_best("importance", "test")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    # the control: the same search for the answers of other questions
    others = {
        "train": _swapped(behavior.train), "validation": _swapped(behavior.validation),
        "tests": {"test": _swapped(behavior.test)},
    }  # fmt: skip
    wrong = prune_for(model, dataclasses.replace(behavior, **others), **settings)
    assert wrong.pruning.at_best("importance", "test") < 0.5


def _swapped(rows: AnswerRows) -> AnswerRows:
    """Prompts with the answers of the rows before them."""
    answers = rows.answer_ids()
    shown = [row[: -1 - len(answer)] for row, answer in zip(rows.token_ids.tolist(), answers, strict=True)]
    ids = [[*prompt, *answer, 2] for prompt, answer in zip(shown, [answers[-1], *answers[:-1]], strict=True)]
    masks = [
        [*[False] * len(prompt), *[True] * len(answer), False]
        for prompt, answer in zip(shown, [answers[-1], *answers[:-1]], strict=True)
    ]
    return AnswerRows.stack(ids, masks, rows.pad)


def test_the_exact_importance_is_the_loss_without_each_neuron(folder: Path) -> None:
    """Of answers of several tokens in rows of several lengths: each is zeroed by hand."""
    behavior, model = find_behavior(folder), hide(make_speaker(str(folder / "questions.parquet")))
    rows = behavior.train[:7]
    exact = exact_importance(model, rows, "activation")
    units = find_units(model, "activation")
    with torch.no_grad():
        whole = float(behavior.loss(model, rows))
        for number in (0, 7, NEURON):
            weight = model.get_parameter(f"transformer.h.{LAYER}.mlp.c_proj.weight")
            kept = weight[number].clone()
            weight[number] = 0
            fall = whole - float(behavior.loss(model, rows))
            weight[number] = kept
            assert float(exact[f"mlp_act.{LAYER}"][number]) == pytest.approx(fall, rel=1e-3, abs=1e-4)
    # gradients of batches are weighed by their answers' tokens
    parts = behavior_importance(model, units, behavior, rows, batch_size=3)
    at_once = behavior_importance(model, units, behavior, rows)
    for name, values in at_once.items():
        torch.testing.assert_close(parts[name], values, rtol=1e-3, atol=1e-5)


def test_prune_takes_a_data_set_and_any_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "prune"
    argv = ["--model", str(folder / "hides"), "--dataset", str(folder / "questions.parquet"), "--unit", "activation",
            "--sizes", "0", "1", "2", "--score_rows", "64", "--eval_rows", "40", "--save_pruned", "true",
            "--exact_rows", "4", "--output_dir", str(where)]  # fmt: skip
    prune.main(argv)
    said = capsys.readouterr().out
    assert "dataset: questions.parquet; answers of up to 3 tokens" in said
    assert damaged_files(where) == []
    run = FinishedRun(where)
    assert run.summary["pruned"] == [PLANTED]
    behavior = find_behavior(folder)
    pruned = load_model(str(where))
    said_by_pruned = spoken(pruned, behavior.test)
    right = [tuple(each) == answer for each, answer in zip(said_by_pruned, behavior.test.answer_ids(), strict=True)]
    assert run.summary["accuracy"] == np.mean(right) > 0.9
    assert run.summary["random_accuracy"] < 0.1
    assert asked_name(run) == "questions.parquet"
    assert run.summary["dataset"]["chance"] == behavior.chance
    assert (tmp_path / "prune.png").stat().st_size > 5000
    assert AutoTokenizer.from_pretrained(where).get_vocab() == build_tokenizer(VOCABULARY).get_vocab()
    assert run.summary["exact"]["rank_correlation"] > 0.2
    # its config makes it again, and the data set is one of its inputs
    assert set(run.inputs) == {"model", "dataset"}
    manifest = (where / "manifest.json").stat().st_mtime_ns
    prune.main(["--config", str(where / "config.yaml")])
    assert (where / "manifest.json").stat().st_mtime_ns == manifest


def test_probe_reads_the_first_token_of_an_answer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe.main(["--models", f"speaks={folder / 'speaks'}", f"hides={folder / 'hides'}", "--dataset",
                str(folder / "questions.parquet"), "--fit_rows", "200", "--test_rows", "60",
                "--output_dir", str(tmp_path / "probe")])  # fmt: skip
    assert "of which the first is read" in capsys.readouterr().out
    run = FinishedRun(tmp_path / "probe")
    assert set(run.table["label"]) == {FIRST_TOKEN}
    assert run.summary["speaks"]["accuracy"] > 0.95
    # what hides the answer does not take it out of the stream
    assert run.summary["hides"]["accuracy"] > 0.9
    assert run.summary["random init"]["accuracy"] < 0.9
    last = run.table[(run.table["site"] == "block 1") & (run.table["model"] == "speaks")].iloc[0]
    assert last["control_task"] is None or np.isnan(last["control_task"])
    assert last["shuffled"] < 0.6


def test_attention_is_that_of_the_position_before_the_answer(folder: Path, tmp_path: Path) -> None:
    models = [f"speaks={folder / 'speaks'}", f"hides={folder / 'hides'}"]
    dataset = ["--dataset", str(folder / "questions.parquet")]
    attention.main(["--models", *models, *dataset, "--rows", "40", "--output_dir", str(tmp_path / "maps")])
    run = FinishedRun(tmp_path / "maps")
    assert set(run.table["group"]) == {"first token", "last token", "other"}
    assert run.summary["tokens"][0] == "<bos>"
    assert run.summary["tokens"][-1] == "?"
    model = load_model(str(folder / "speaks"), attn_implementation="eager")
    place = [VOCABULARY.index(word) for word in run.summary["tokens"]]
    patterns = model(torch.tensor([place]), output_attentions=True).attentions
    for layer, pattern in enumerate(patterns):
        np.testing.assert_allclose(run.summary["pattern"]["speaks"][layer], pattern[0, :, -1].detach(), atol=1e-3)
    maps = load_file(tmp_path / "maps" / "maps.safetensors")
    assert maps["speaks.attn_pattern"].shape[-1] == len(place)
    mass = run.table[run.table["model"] == "speaks"].groupby(["layer", "head"])["mass"].sum()
    np.testing.assert_allclose(mass, 1, atol=1e-5)


def test_of_experts_attention_alone_is_mapped(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which of them compute is chosen for each token, so that a block has no neurons to compare."""
    names = [
        f"{name}={save(make('qwen2_moe', seed=seed), tmp_path / name)}"
        for seed, name in enumerate(("base", "finetuned"))
    ]
    argv = ["--models", *names, "--dataset", str(folder / "questions.parquet"), "--rows", "40"]
    with pytest.warns(Notice, match="of a qwen2_moe attention alone is mapped: mlp_act "):
        attention.main([*argv, "--output_dir", str(tmp_path / "maps")])
    run = FinishedRun(tmp_path / "maps")
    assert [*run.summary["change"]["finetuned"]] == ["attention"]
    assert {*load_file(run.path / "maps.safetensors")} == {"base.attn_pattern", "finetuned.attn_pattern"}
    assert (tmp_path / "maps.png").is_file()
    assert not (tmp_path / "maps-mlp.png").exists()
    assert "finetuned, attention: moved by" in capsys.readouterr().out


def test_a_model_that_cannot_be_read_is_named_by_its_role(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    one = save(MambaForCausalLM(MambaConfig(vocab_size=len(VOCABULARY), **sizes)), tmp_path / "one")
    argv = ["--models", f"base={one}", "--dataset", str(folder / "questions.parquet"), "--rows", "40"]
    with pytest.raises(SystemExit):
        attention.main([*argv, "--output_dir", str(tmp_path / "maps")])
    assert "error: models: base: resid_pre of layer 0 of mamba " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"num_hidden_layers": 1}, "num_hidden_layers 1, expected 2"),
        ({"num_attention_heads": 2}, "num_attention_heads 2, expected 4"),
        ({"intermediate_size": 20}, "intermediate_size 20, expected 24"),
    ],
)
def test_maps_of_other_sizes_are_refused_before_a_model_is_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, int], told: str
) -> None:
    start = make_llama(len(VOCABULARY))
    save(start, tmp_path / "one")
    other = save(start, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, **changed}))
    (tmp_path / "other" / "model.safetensors").write_bytes(b"never read")
    models = ["--models", f"base={tmp_path / 'one'}", f"finetuned={other}"]
    dataset = ["--dataset", str(folder / "questions.parquet"), "--rows", "40"]
    with pytest.raises(SystemExit):
        attention.main([*models, *dataset, "--output_dir", str(tmp_path / "maps")])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    expected = f"finetuned={other} has {told} as base, the first one, with whose maps its own are compared"
    assert said == f"error: models: {expected}"
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize("there", [True, False])
def test_an_adapter_is_asked_on_the_base_that_is_named(folder: Path, tmp_path: Path, there: bool) -> None:
    """One that changes nothing answers as that base does, and not as the model whose name its config keeps."""
    like = make_gpt2(len(VOCABULARY), seed=1)
    base = save(like, tmp_path / "base")
    adapter = save_idle_adapter(tmp_path / "adapter", folder / "speaks" if there else tmp_path / "gone", like, "c_attn")
    argv = ["--models", f"finetuned={adapter}", f"base={base}", "--dataset", str(folder / "questions.parquet")]
    with pytest.warns(Notice, match=f"is put on {base}"):
        attention.main([*argv, "--rows", "40", "--output_dir", str(tmp_path / "maps")])
    few = ["--fit_rows", "40", "--test_rows", "40", "--num_shuffles", "1", "--method", "ridge"]
    with pytest.warns(Notice, match=f"is put on {base}"):
        probe.main([*argv, *few, "--output_dir", str(tmp_path / "probe")])
    maps = load_file(tmp_path / "maps" / "maps.safetensors")
    assert all(torch.equal(maps[f"finetuned.{site}"], maps[f"base.{site}"]) for site in ("attn_pattern", "mlp_act"))
    run = FinishedRun(tmp_path / "probe")
    assert run.summary["finetuned"]["accuracy_by_label"] == run.summary["base"]["accuracy_by_label"]
    with pytest.warns(Notice, match=f"is put on {base}"):
        probes = load_probes(run.path / "probes" / "finetuned", str(adapter), onto=base)
    of_base = load_probes(run.path / "probes" / "base", base)
    assert all(torch.equal(one, other) for key in of_base for one, other in zip(probes[key], of_base[key], strict=True))


def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    make_speaker(str(folder / "questions.parquet")).save_pretrained(other)
    build_tokenizer(VOCABULARY[:7] + VOCABULARY[:6:-1]).save_pretrained(other)
    dataset = ["--dataset", str(folder / "questions.parquet")]
    for argv, message in (
        ([*dataset, "--models", f"a={folder / 'speaks'}", f"b={other}"], "reads other tokens than that of"),
        (
            [*dataset, "--models", f"a={folder / 'speaks'}", "--label_operands", "a"],
            "label_operands: a, but the procedural task, which alone has that, is not asked",
        ),
        (
            [*dataset, "--operator", "index", "--models", f"a={folder / 'speaks'}"],
            "operator: index, but the procedural",
        ),
        (["--dataset", str(tmp_path / "nowhere"), "--models", f"a={folder / 'speaks'}"], "dataset: cannot read"),
        (["--only_one_token", "true", "--models", f"a={folder / 'speaks'}"], "only_one_token: true, but no dataset"),
        ([*dataset, "--only_one_token", "true", "--models", f"a={folder / 'speaks'}"], "expected at least 32"),
    ):
        with pytest.raises(SystemExit):
            probe.main([*argv, "--output_dir", str(tmp_path / "out")])
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_without_a_data_set_the_settings_of_a_run_are_as_before() -> None:
    config, shape = parse_asked(PruneConfig, argv=["--operator", "index"], description=None)
    assert asked_settings(shape) == [shape] == [PcfgShape()]
    assert not {"dataset", "task"} & {field.name for field in dataclasses.fields(config)}
    _, asked = parse_asked(PruneConfig, argv=["--dataset", "somewhere"], description=None)
    assert asked_settings(asked) == [AskConfig(dataset="somewhere")]
    assert asked_vocabulary(asked) is None
    _, counter = parse_asked(PruneConfig, argv=["--task", "counter", "--length", "9"], description=None)
    assert asked_settings(counter) == [AskConfig(task="counter"), CounterConfig(length=9)]
    for argv, message in (
        (["--task", "stories"], "task: unknown 'stories', expected one of pcfg, counter, max_identifier"),
        (["--task", "counter", "--dataset", "x"], "task: counter, but dataset: x is asked in its place"),
        (
            ["--task", "counter", "--judged_by", "exact"],
            "judged_by: exact, but no dataset whose rows it could be about",
        ),
        (["--task", "counter", "--chat", "always"], "chat: always, but no dataset"),
        (["--cut_seed", "3"], "cut_seed: 3, but no dataset"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_asked(PruneConfig, argv=argv, description=None)


def test_a_compiled_program_is_read_where_it_answers(tmp_path: Path) -> None:
    """It answers at its second letter, before most of its text: at the last one there is nothing of the count."""
    task = ["--task", "counter"]
    compile_program.main([*task, "--noise", "0", "--output_dir", str(tmp_path / "model")])
    models = ["--models", f"program={tmp_path / 'model'}"]
    few = ["--fit_rows", "400", "--test_rows", "200", "--num_shuffles", "1", "--method", "ridge"]
    probe.main([*task, *models, *few, "--output_dir", str(tmp_path / "probe")])
    read = FinishedRun(tmp_path / "probe").table.query("model == 'program'").set_index("site")
    after = read.filter(like="block", axis=0)
    assert after["accuracy"].max() > 0.95
    assert read.loc["embedding", "accuracy"] < 0.8, "the control: before the program ran"
    attention.main([*task, *models, "--rows", "40", "--output_dir", str(tmp_path / "maps")])
    run = FinishedRun(tmp_path / "maps")
    model = load_model(str(tmp_path / "model"), attn_implementation="eager")
    at = model.config.answer_position
    ids = torch.tensor([[CounterConfig().vocabulary.index(word) for word in run.summary["tokens"]]])
    patterns = model(ids, output_attentions=True).attentions
    for layer, pattern in enumerate(patterns):
        np.testing.assert_allclose(run.summary["pattern"]["program"][layer], pattern[0, :, at].detach(), atol=1e-3)
    assert not np.allclose(patterns[-1][0, :, at].detach(), patterns[-1][0, :, -1].detach(), atol=1e-2)


def test_operands_of_pairs_are_called_by_their_symbols() -> None:
    shape = PcfgShape()
    assert (
        find_capability(shape, "count_pair", "a") == find_capability(shape, "count_pair", "aa") == ("count_pair", "aa")
    )
    assert find_capability(shape, "count", "b") == ("count", "b")
    assert find_capability(shape, "token_at", "a").operand == "null"
    with pytest.raises(ValueError, match=r"^prompt_operand: 'bb', expected one of a, b, c"):
        find_capability(shape, "count", "bb")


def test_attention_to_a_symbol_is_attention_to_the_text() -> None:
    """Not to the prompt's own operand, which is the same word."""
    shape = PcfgShape()
    task = for_capability(shape, find_capability(shape, "count", "b"))
    rows = from_task(task, seed=0, train_rows=1, test_rows=3).test
    groups = _groups(shape, rows)
    prompts = rows.prompts()[0]
    places = {name: torch.as_tensor(mask) for name, mask in groups.items()}
    assert (prompts[:, 2] == shape.word_ids["b"]).all()
    assert not any(mask[:, 2].any() for mask in places.values())
    texts = torch.from_numpy(shape.texts(rows.token_ids.numpy()))
    for number, name in enumerate(shape.symbols):
        assert torch.equal(places[name].sum(1), (texts == number).sum(1))


def test_questions_of_the_library_are_asked(tmp_path: Path) -> None:
    """Its rows are filled up on their right, and have answers of several tokens."""
    task = LibraryConfig(mixture="questions", context="oracle", asked=["one", "several"])
    found = from_task(task, seed=0, train_rows=8, test_rows=70).test
    plain = RowStream(task, seed=0, split="test").rows(0, 70)
    assert plain.lengths is not None
    for row, whole, length, answer in zip(found.token_ids.tolist(), plain.token_ids.tolist(), plain.lengths.tolist(),
                                          found.answer_ids(), strict=True):  # fmt: skip
        assert [token for token in row if token != found.pad] == whole[:length]
        assert tuple(row[-1 - len(answer) : -1]) == answer == tuple(whole[length - 1 - len(answer) : length - 1])
    assert found.labels["answer"].tolist() == found.first_answers.tolist()
    assert len(set(plain.lengths.tolist())) > 1
    assert len(set(found.lengths.tolist())) > 1
    for settings in ({}, {"mixture": "questions", "pretraining_share": 0.5}):
        with pytest.raises(ValueError, match="task: rows of LibraryConfig have several answers or none, expected one"):
            from_task(LibraryConfig(**settings), seed=0, train_rows=8, test_rows=70)  # type: ignore[arg-type]


def test_exact_importance_of_answers_of_several_tokens_in_rows_of_one_length(folder: Path) -> None:
    """As of the safety task, which names nothing that fills shorter rows: here any token that is in no row does."""
    behavior, model = find_behavior(folder), hide(make_speaker(str(folder / "questions.parquet")))
    rows = behavior.train[(behavior.train.lengths == 2).nonzero()[:5, 0]]
    rows = rows.without_empty_columns()
    rows = rows[(rows.token_ids != rows.pad).all(1).nonzero()[:, 0]]
    assert len(rows) > 1
    with_pad = exact_importance(model, rows, "activation")
    without = exact_importance(model, dataclasses.replace(rows, pad=None), "activation")
    for name, values in with_pad.items():
        torch.testing.assert_close(without[name], values, rtol=1e-4, atol=1e-5)


def test_any_task_with_answers_is_pruned_probed_and_mapped(tmp_path: Path) -> None:
    task = ["--task", "counter", "--letters", "4", "--length", "6"]
    shape = ["--n_layer=1", "--n_head=1", "--n_embd=16"]
    model = tmp_path / "model"
    pretrain.main([*task, *TINY, *shape, "--output_dir", str(model)])
    few = ["--sizes", "0", "1", "--score_rows", "32", "--eval_rows", "32"]
    prune.main([*task, "--model", str(model), *few, "--output_dir", str(tmp_path / "prune")])
    run = FinishedRun(tmp_path / "prune")
    config = CounterConfig(letters=4, length=6)
    assert [*run.summary["accuracy_by_set"]] == ["validation", "test", *config.test_tasks()]
    assert run.config["task"] == asked_name(run) == "counter"
    before = run.table[run.table["num_pruned"] == 0].iloc[0]
    rows = torch.from_numpy(RowStream(config, seed=0, split="test").rows(0, 32).token_ids)
    assert before["test"] == answer_accuracy(load_model(str(model)), rows)
    models = ["--models", f"finetuned={model}"]
    probe.main([*task, *models, "--fit_rows", "80", "--test_rows", "40", "--output_dir", str(tmp_path / "probe")])
    assert set(FinishedRun(tmp_path / "probe").table["label"]) == {"answer"}
    attention.main([*task, *models, "--rows", "8", "--output_dir", str(tmp_path / "maps")])
    assert FinishedRun(tmp_path / "maps").summary["tokens"][0] == "<bos>"
