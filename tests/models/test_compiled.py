"""A compiled program in torch is what tracr compiled, and what the program means."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from ftmech_hf.activations import TracedModel, Unit, ablated_losses, find_layout, find_units
from ftmech_hf.activations.sites import EXPERT_SITES
from ftmech_hf.analysis.logit_lens import logit_lens
from ftmech_hf.analysis.patching import patch_each
from ftmech_hf.analysis.pruning import gradient_importance, pruned
from ftmech_hf.jobs.compiling import save_compiled
from ftmech_hf.models.compiled import NEVER, CompiledModel
from ftmech_hf.models.conversion import (
    ARTEFACTS,
    artefact_bytes,
    compile_program,
    convert,
    direction_names,
    load_artefact,
    load_program,
)
from ftmech_hf.models.loading import load_model, random_twin
from ftmech_hf.tasks.programs import COMPILER_BOS, Program, counter, max_identifier
from ftmech_hf.training.evaluation import answer_logits
from ftmech_hf.training.objectives import answer_only_loss
from tests.processes import run_fresh
from tests.tasks.programs import TRUTH


def encode(vocabulary: tuple[str, ...], texts: list[tuple[Any, ...]]) -> Tensor:
    return torch.tensor([[vocabulary.index(str(word)) for word in ("<bos>", *text)] for text in texts])


def all_residuals(model: CompiledModel, token_ids: Tensor) -> list[Tensor]:
    """The stream after every attention and every MLP, as tracr lists it."""
    found: list[Tensor] = []
    handles = [
        block.attn.register_forward_hook(lambda module, args, output: found.append(args[0] + output[0]))
        for block in model.blocks
    ]
    with torch.no_grad():
        streams = model(token_ids, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    return [stream for pair in zip(found, streams[1:], strict=True) for stream in pair]


def compare(assembled: Any, model: CompiledModel, vocabulary: tuple[str, ...], texts: list[tuple[Any, ...]]) -> int:
    """Residuals everywhere and outputs, within 1e-5, of texts of one length; how many words were clearly chosen."""
    import jax

    encoded = [assembled.input_encoder.encode([COMPILER_BOS, *text]) for text in texts]
    theirs = jax.jit(assembled.forward)(assembled.params, jax.numpy.array(encoded))
    token_ids = encode(vocabulary, texts)
    residuals = all_residuals(model, token_ids)
    assert len(residuals) == len(theirs.transformer_output.residuals)
    for ours, original in zip(residuals, theirs.transformer_output.residuals, strict=True):
        np.testing.assert_allclose(ours.numpy(), np.asarray(original), atol=1e-5, rtol=0)
    with torch.no_grad():
        logits = model(token_ids).logits
    original = np.asarray(theirs.transformer_output.output)[..., model.config.output_directions]
    outputs = logits[..., model.config.output_ids] if model.config.output_ids else logits
    np.testing.assert_allclose(outputs.numpy(), original, atol=1e-5, rtol=0)
    if not model.config.output_ids:
        np.testing.assert_allclose(logits[..., 0].numpy(), np.asarray(theirs.unembedded_output), atol=1e-5, rtol=0)
        return len(texts)
    ranked = np.sort(original, axis=-1)
    ahead = ranked[..., -1] - ranked[..., -2] > 1e-4 if original.shape[-1] > 1 else np.ones(original.shape[:2], bool)
    decoded = np.array(model.config.output_ids)[np.asarray(theirs.unembedded_output)]
    assert (logits.argmax(-1).numpy() == decoded)[ahead].all()
    return int(ahead.sum())


@pytest.mark.parametrize(
    ("program", "distinct"),
    [(counter(letters=3, length=5), False), (max_identifier(rank=3, letters=5, length=5), True)],
    ids=["counter", "max"],
)
def test_every_short_input_gives_tracrs_numbers(program: Program, distinct: bool) -> None:
    assembled = program.compile()
    model, vocabulary = convert(assembled, program)
    chosen = 0  # where a program has no output, all words are level
    for length in range(1, 6):
        draw = itertools.permutations if distinct else lambda words, n: itertools.product(words, repeat=n)
        chosen += compare(assembled, model, vocabulary, list(draw(program.words, length)))  # type: ignore[operator]
    assert chosen > 100


def test_long_inputs_give_tracrs_numbers_and_the_artefacts_are_what_tracr_compiles() -> None:
    rng = np.random.default_rng(0)
    for program in (counter(), max_identifier()):
        assembled = program.compile()
        model, vocabulary = convert(assembled, program)
        texts = [tuple(rng.permutation(program.words)[: program.max_length]) for _ in range(16)]
        if program.max_length > len(program.words):
            texts = [tuple(rng.choice(program.words, program.max_length)) for _ in range(16)]
        compare(assembled, model, vocabulary, texts)
        stored, words = load_artefact(program.name)
        assert words == vocabulary
        for name, value in model.state_dict().items():
            assert torch.equal(stored.state_dict()[name], value), name
        assert artefact_bytes(stored, words) == artefact_bytes(model, vocabulary)


@pytest.mark.parametrize(("program", "operand", "text", "answer"), TRUTH)
def test_the_compiled_model_agrees_with_the_table(
    program: Program, operand: str, text: str, answer: str, compiled: Callable[[Program], Any]
) -> None:
    model, vocabulary = compiled(program)
    with torch.no_grad():
        logits = model(encode(vocabulary, [tuple(text)]), logits_to_keep=1).logits
    assert logits.shape == (1, 1, len(vocabulary))
    assert vocabulary[int(logits[0, 0].argmax())] == answer


@pytest.fixture(scope="module")
def compiled() -> Callable[[Program], Any]:
    made: dict[str, Any] = {}

    def get(program: Program) -> Any:
        if program.name not in made:
            made[program.name] = load_program(program)
        return made[program.name]

    return get


def library() -> dict[str, tuple[Callable[[Any, Any], Any], tuple[Any, ...], int, bool]]:
    """name -> (makes the program from tracr's rasp and lib, words, longest input, causal)."""
    abc, brackets, numbers = ("a", "b", "c"), ("(", ")", "a"), (1, 2, 3, 4)
    return {
        "length": (lambda rasp, lib: lib.make_length(), abc, 4, False),
        "reverse": (lambda rasp, lib: lib.make_reverse(rasp.tokens), abc, 4, False),
        "hist": (lambda rasp, lib: lib.make_hist(), abc, 4, False),
        "count": (lambda rasp, lib: lib.make_count(rasp.tokens, "a"), abc, 4, False),
        "sort_unique": (lambda rasp, lib: lib.make_sort_unique(rasp.tokens, rasp.tokens), numbers, 3, False),
        "sort": (
            lambda rasp, lib: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=3, min_key=1), numbers, 3, False,
        ),
        "sort_freq": (lambda rasp, lib: lib.make_sort_freq(3), abc, 3, False),
        "pair_balance": (lambda rasp, lib: lib.make_pair_balance(rasp.tokens, "(", ")"), brackets, 4, False),
        "shuffle_dyck": (lambda rasp, lib: lib.make_shuffle_dyck(["()"]), ("(", ")"), 4, False),
        "count_less_freq": (lambda rasp, lib: lib.make_count_less_freq(2), abc, 3, False),
        "frac_prevs": (lambda rasp, lib: lib.make_frac_prevs(rasp.tokens == "a"), abc, 4, True),
        "shift_by": (lambda rasp, lib: lib.shift_by(1, rasp.tokens), abc, 4, True),
        "detect_pattern": (lambda rasp, lib: lib.detect_pattern(rasp.tokens, "ab"), abc, 4, True),
    }  # fmt: skip


SLOW = ("count", "detect_pattern", "shift_by", "sort_freq")
"""Compiled by ``make test-slow``: they take longest, and the others have all that is in them."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in library()]
)
def test_tracrs_own_programs_convert_and_mean_what_they_say(name: str) -> None:
    make, words, length, causal = library()[name]

    def build() -> Any:
        from tracr.compiler import lib
        from tracr.rasp import rasp

        return make(rasp, lib)

    program = Program(name, words, length, build, causal=causal)
    assembled = program.compile()
    model, vocabulary = convert(assembled, program)
    assert model.config.causal == causal
    texts = list(itertools.product(words, repeat=length))
    if name == "sort_unique":
        texts = list(itertools.permutations(words, length))
    compare(assembled, model, vocabulary, texts[::3])
    with torch.no_grad():
        logits = model(encode(vocabulary, texts)).logits[:, 1:]
    for text, outputs in zip(texts, logits, strict=True):
        for meant, output in zip(program.interpret(text), outputs, strict=True):
            if meant is None:
                continue
            if model.config.output_ids:
                assert vocabulary[int(output.argmax())] == str(meant), text
            else:
                assert float(output) == pytest.approx(float(meant), abs=1e-2), text


def test_a_program_of_ones_own_compiles() -> None:
    def build() -> Any:
        from tracr.rasp import rasp

        third = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == 2)
        return rasp.Aggregate(third, rasp.tokens)

    model, vocabulary = compile_program(Program("third", ("a", "b", "c"), 3, build))
    logits = model(encode(vocabulary, [("a", "b", "c"), ("c", "c", "a")])).logits
    assert [[vocabulary[word] for word in row] for row in logits[:, 1:].argmax(-1)] == [["c"] * 3, ["a"] * 3]


def test_words_that_are_no_output_are_never_chosen_and_take_no_probability() -> None:
    model, vocabulary = load_artefact("max_identifier_5_26x10")
    with torch.no_grad():
        logits = model(encode(vocabulary, [tuple("bdafhmxpqn")]), logits_to_keep=1).logits[0, 0]
    outputs = [vocabulary.index(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    others = [word for word in range(len(vocabulary)) if word not in outputs]
    assert (logits[others] == NEVER).all()
    assert float(logits.softmax(-1)[others].sum()) == 0


def test_it_trains_saves_and_loads(tmp_path: Path) -> None:
    model, vocabulary = load_artefact("counter_a_9x20")
    token_ids = encode(vocabulary, [tuple("abacadefgh"), tuple("bbbbbaaaaa")])
    labels = torch.full_like(token_ids, -100)
    labels[:, 2] = torch.tensor([vocabulary.index("1"), vocabulary.index("5")])
    before = model(token_ids, labels=labels).loss
    before.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 * parameter.grad  # type: ignore[operator]
    assert model(token_ids, labels=labels).loss < before
    save_compiled(model, vocabulary, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()
    expected = model(token_ids).logits
    for loaded in (
        AutoModel.from_pretrained(tmp_path / "model"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "model"),
        load_model(str(tmp_path / "model")),
    ):
        assert isinstance(loaded, CompiledModel)
        assert torch.equal(loaded(token_ids).logits, expected)
        assert loaded.config.residual_names == model.config.residual_names
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer("<bos> a b a")["input_ids"] == [1, *(vocabulary.index(word) for word in "aba")]
    assert not torch.equal(random_twin(model, 0)(token_ids).logits, expected)


REMOTE = """
import sys, torch
from transformers import AutoModel
folder, ours = sys.argv[1], sys.argv[2] == "ours"
if ours:
    import ftmech_hf
else:
    try:
        AutoModel.from_pretrained(folder)
    except ValueError as error:
        print()  # behind the question whether it may, which nobody answers
        assert "trust_remote_code" in str(error), error
    else:
        raise SystemExit("it ran code that nobody had agreed to")
model = AutoModel.from_pretrained(folder, **({} if ours else {"trust_remote_code": True}))
assert ours or not any(name.startswith("ftmech_hf") for name in sys.modules), "not self-contained"
print(type(model).__name__, [round(float(x), 4) for x in model(torch.tensor([[1, 7, 8, 7]])).logits[0, 2, 16:20]])
"""


def test_with_consent_it_loads_where_this_package_is_not_installed(tmp_path: Path) -> None:
    model, vocabulary = load_artefact("counter_a_9x20")
    save_compiled(model, vocabulary, tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("*.py"))
    save_compiled(model, vocabulary, tmp_path / "coded", with_code=True)
    printed = []
    for folder, ours in (("coded", "theirs"), ("plain", "ours")):
        environment = {"PATH": "", "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
        if ours == "ours":
            environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        done = run_fresh(["-c", REMOTE, str(tmp_path / folder), ours], env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines()[-1])
    assert printed[0] == printed[1] == "CompiledModel [0.0, 0.0, 1.0, 0.0]"


def test_the_door_finds_its_parts() -> None:
    model, vocabulary = load_artefact("counter_a_9x20")
    layout = find_layout(model)
    assert [layout.blocks, *layout.layers[0][:2]] == ["blocks", "attn", "mlp.down_proj"]
    traced = TracedModel(model)
    assert (traced.num_layers, traced.num_neurons, traced.refuses_padding) == (3, 42, "")
    token_ids = encode(vocabulary, [tuple("abacadefgh")])
    found = traced.collect(token_ids, traced.sites, positions=2)
    names = model.config.residual_names
    count = [float(found["resid_post", 1][0, number]) for number, name in enumerate(names) if name.startswith("count")]
    assert int(np.argmax(count[:21])) == 3
    assert found["attn_pattern", 1][0, 0, 1:].numpy() == pytest.approx(
        np.where([letter == "a" for letter in "abacadefgh"], 1 / 4, 0), abs=1e-5
    )  # the a's and <bos>


def answer_loss(model: CompiledModel, token_ids: Tensor, answers: Tensor) -> float:
    with torch.no_grad():
        return float(cross_entropy(model(token_ids, logits_to_keep=1).logits[:, -1], answers))


SMALL = {"counter_a_9x20": "counter", "max_identifier_5_26x10": "max"}


def texts(number: int, *after: str) -> list[tuple[str, ...]]:
    """Texts of nine different letters, in which every letter stands before every other somewhere."""
    letters = np.random.default_rng(0).permuted(np.tile(np.arange(9), (number, 1)), axis=1)
    return [(*("abcdefghi"[letter] for letter in row), *after) for row in letters]


@pytest.mark.parametrize("unit", ["head", "activation", "row"])
@pytest.mark.parametrize(
    ("name", "everywhere"), [("counter_a_9x20", False), ("counter_a_9x20", True), ("max_identifier_5_26x10", False)]
)
def test_every_unit_is_ablated_where_the_program_answers(name: str, unit: Unit, everywhere: bool) -> None:
    """The oracle is one forward pass per unit with its weights zeroed; what tracr left empty changes nothing."""
    model, vocabulary = load_artefact(name)
    if everywhere:
        model.config.answer_position = None  # then the last position's output is looked at
    token_ids = encode(vocabulary, texts(4))
    at = -1 if everywhere else 2
    with torch.no_grad():
        answers = model(token_ids).logits[:, at].argmax(-1)
    whole, losses = ablated_losses(model, token_ids, answers, unit)
    assert whole == pytest.approx(answer_loss(model, token_ids, answers), abs=1e-6)
    units = find_units(model, unit)
    assert losses.keys() == units.keys()
    moved, empty = 0, 0
    for group_name, group in units.items():
        step = 7 if unit == "row" else 1
        for number in range(0, group.num_units, step):
            kept = {group_name: torch.arange(group.num_units) != number}
            chosen = group.weight.detach().index_select(group.axis, group.places(torch.tensor([number]))[0])
            with pruned(units, kept):
                expected = answer_loss(model, token_ids, answers)
            found = float(losses[group_name][number])
            assert found == pytest.approx(expected, abs=1e-4 * max(1.0, abs(expected))), (group_name, number)
            moved += abs(expected - whole) > 1e-2
            if not chosen.any():
                assert found == pytest.approx(whole, abs=1e-6)
                empty += 1
    assert moved > 0
    assert empty > 0


class Bounded(torch.nn.Module):
    """An MLP whose output is bent before it is added: to take a neuron's share out of the stream would be wrong."""

    def __init__(self, inside: torch.nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, stream: Tensor) -> Tensor:
        return torch.tanh(self.inside(stream))  # type: ignore[no-any-return]


def test_words_that_are_never_said_hide_no_wrong_shortcut() -> None:
    model, vocabulary = load_artefact("max_identifier_5_26x10")
    for block in model.blocks:
        block.mlp = Bounded(block.mlp)  # type: ignore[assignment]
    token_ids = encode(vocabulary, texts(4))
    answers = torch.full((4,), vocabulary.index("e"))
    _, losses = ablated_losses(model, token_ids, answers, "activation")
    units = find_units(model, "activation")
    for group_name, group in units.items():
        for number in range(group.num_units):
            with pruned(units, {group_name: torch.arange(group.num_units) != number}):
                expected = answer_loss(model, token_ids, answers)
            assert float(losses[group_name][number]) == pytest.approx(expected, abs=1e-4), (group_name, number)


def test_what_a_program_cannot_say_has_no_loss() -> None:
    model, vocabulary = load_artefact("max_identifier_5_26x10")
    token_ids = encode(vocabulary, [tuple("bdafhmxpqn")] * 2)
    with pytest.raises(ValueError, match="targets: 33 to 40, expected 0 to 32"):
        ablated_losses(model, token_ids, torch.tensor([33, 40]), "head")
    with pytest.raises(ValueError, match="token_ids: rows of 2 tokens, expected more: the model answers at position 2"):
        ablated_losses(model, token_ids[:, :2], torch.tensor([33, 40]), "head")
    model.config.output_ids, model.config.output_directions = [], [3]  # a program whose output is a number
    model._indices.clear()
    assert model(token_ids).logits.shape == (2, 11, 1)
    with pytest.raises(ValueError, match="model: compiled_program gives a number and no words"):
        ablated_losses(model, token_ids, torch.zeros(2, dtype=torch.long), "head")
    with pytest.raises(ValueError, match="labels: the output of this program is a number"):
        model(token_ids, labels=token_ids)


@pytest.mark.parametrize("name", SMALL, ids=SMALL.values())
def test_every_instrument_takes_a_compiled_program(name: str, tmp_path: Path) -> None:
    model, vocabulary = load_artefact(name)
    rows = encode(vocabulary, texts(24, "a", "a"))
    rows[:, -2] = answers = answer_logits(model, rows).argmax(-1)
    traced, layers = TracedModel(model), list(range(model.config.num_hidden_layers))
    assert set(traced.refused) == set(EXPERT_SITES)
    prompts = rows[:, :-2]
    # reading: the pattern's rows are shares, and what is stored is what is collected
    found = traced.collect(prompts, traced.sites, positions=[0, 2])
    assert torch.allclose(found["attn_pattern", 1].sum(-1), torch.ones(24, 1, 2))
    store = traced.collect_to(tmp_path / "store", prompts, ["resid_post"], positions=[0, 2])
    assert np.array_equal(store["resid_post", 2], found["resid_post", 2].numpy())
    logits = traced.masked_logits(prompts, torch.ones(traced.num_layers, traced.num_neurons))
    assert torch.allclose(logits, answer_logits(model, rows), atol=1e-5)
    # the logit lens: the last layer is the answer, and the first does not have it yet
    lens = logit_lens(model, rows, {"answer": answers})
    assert lens.first["answer"][-1].all()
    assert not lens.first["answer"][0].all()
    # patching from itself changes nothing; from the program about another operand it brings that one's answers
    same = patch_each(model, model, rows, sites=["attn_out", "resid_post"], layers=layers, other_rows=4)
    assert same.unpatched.all()
    assert all(right.all() for right in same.right.values())
    # importance and pruning: what tracr left empty has none, and all of it can go
    units = find_units(model, "row")
    importance = gradient_importance(units, lambda batch: answer_only_loss(model, batch), rows)
    kept = {group: units[group].weight.detach().any(dim=1) for group in units}
    assert all((importance[group][~kept[group]] == 0).all() for group in units)
    assert sum(int((~mask).sum()) for mask in kept.values()) > 100
    with pruned(units, kept):
        assert (answer_logits(model, rows).argmax(-1) == answers).all()


def test_names_do_not_depend_on_what_was_compiled_before() -> None:
    labels = ["count_13:0", "count_13_selector_width_attn_output", "map_9:a_1", "map_12:a_1", "one", "tokens:a"]
    assert direction_names(labels) == [
        "count:0", "count_selector_width_attn_output", "map_1:a_1", "map_2:a_1", "one", "tokens:a",
    ]  # fmt: skip


def test_an_unknown_artefact_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"program: unknown 'nope', expected one of counter_a_9x45"):
        load_artefact("nope")
    assert len(ARTEFACTS) == 6
