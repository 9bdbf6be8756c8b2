from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from ftmech_hf.activations.lens import NoLensError
from ftmech_hf.explorer import reading
from ftmech_hf.explorer.edits import Edit
from ftmech_hf.explorer.explorer import Explorer
from ftmech_hf.explorer.page import answer
from ftmech_hf.explorer.views import describe_edit, render_answers, share, visible
from tests.explorer.test_explorer import odd_prompts


def ask(explorer: Explorer, prompt: str, **changed: object) -> str:
    given = {"scale": 1.0, "directions": 16, "zero_rows": False, "patch_from": "none", "patch_site": "resid_post",
             "patch_layer": 0}  # fmt: skip
    return answer(explorer, prompt, **(given | changed))  # type: ignore[arg-type]


def test_the_page_says_what_each_model_answers(explorer: Explorer) -> None:
    prompt = explorer.examples[0]
    found = explorer.ask(prompt)
    shown = ask(explorer, prompt)
    base, tuned = (visible(explorer.spell(found.readings[name].top[0][0])) for name in ("base", "finetuned"))
    assert base != tuned
    lead = re.search(r'id="fx-lead">(.*?)</p>', shown, re.S)
    assert lead is not None
    assert re.match(rf"Base: {base} \(\d+\.\d %\)\. Fine-tuned: {tuned} \(\d+\.\d %\)\. Edited \(nothing is edited\): "
                    rf"{tuned} .*as the fine-tuned model\. \d+ ms\.", lead[1])  # fmt: skip
    assert [re.findall(r'data-model="(.*?)"', shown)] == [["base", "finetuned", "reversed", "edited"]]
    assert shown.count('<tr><th scope="row">') == 2  # one row a layer
    edited = ask(explorer, prompt, scale=0)
    assert f"Edited (weight change x 0): {base}" in edited
    assert "as the base model" in edited
    assert "Writes the same as the fine-tuned model." not in edited.partition('data-model="edited"')[2]


def test_maps_say_where_the_answer_looks_most_and_shades_are_as_large_as_what_they_show(explorer: Explorer) -> None:
    found = explorer.ask(explorer.examples[0])
    shown = ask(explorer, explorer.examples[0])
    means = {name: each.attention.mean(1) for name, each in found.readings.items() if each.attention is not None}
    labels = re.findall(r'<svg role="img" aria-label="Most in layer (\d+): (\d+)% to token (\d+), ', shown)
    for mean, (layer, share_of, token) in zip(means.values(), labels, strict=True):
        assert mean[int(layer), int(token) - 1] == mean.max()
        assert int(share_of) == round(100 * float(mean.max()))
    most = max(float(mean.max()) for mean in means.values())
    drawn = [float(each) for each in re.findall(r'fill-opacity="(.*?)"', shown)]
    assert np.allclose(drawn, np.concatenate([mean.ravel() for mean in means.values()]) / most, atol=1e-3)
    cells = re.findall(r"var\(--fx-fill\) (\d+)%, transparent\)\">(<?[\d.]+) %</td>", shown.replace("&lt;", "<"))
    assert len(cells) == 2 * 4 * len(found.followed)  # layers, models
    assert all(abs(int(shade) - 0.6 * float(value.strip("<"))) <= 1 for shade, value in cells)


def test_a_lens_that_cannot_be_read_is_said_and_the_rest_is_shown(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise NoLensError("model: no lens")

    monkeypatch.setattr(reading, "logit_lens", refused)
    found = explorer.ask(explorer.examples[1], Edit(scale=0.37))
    edited = found.readings["edited"]
    assert (edited.lens, edited.missing["lens"]) == ({}, "model: no lens")
    assert edited.written
    shown = render_answers(explorer, found, Edit(scale=0.37))
    assert "Cannot be read: model: no lens." in shown
    assert shown.count('<tr><th scope="row">') == 2


def test_the_same_edit_at_random_stands_beside_it(explorer: Explorer) -> None:
    shown = ask(explorer, explorer.examples[0], scale=0, chance=1)
    assert "Same edit at random" in shown
    assert "the same edit at random: " in shown
    one, other = (explorer.ask(explorer.examples[0], Edit(scale=0).by_chance(seed)) for seed in (1, 2))
    assert one.readings["edited"].top != other.readings["edited"].top


def test_what_is_typed_is_never_markup(explorer: Explorer) -> None:
    explorer_of_letters = explorer
    found = explorer_of_letters.ask("<script>alert(1)</script> w1")
    top = [(explorer.tokenizer.unk_token_id, 0.5), *found.readings["edited"].top]
    found = replace(found, readings={**found.readings, "edited": replace(found.readings["edited"], top=top)})
    shown = render_answers(explorer, found, Edit())
    assert "&lt;unk&gt;" in shown
    assert "<unk>" not in shown
    assert "<script" not in shown
    wrong = ask(explorer, "w1", patch_from="<img src=x>")
    assert "<img" not in wrong
    assert 'role="alert"' in wrong


def test_whatever_is_typed_gives_a_page(explorer: Explorer) -> None:
    for prompt in odd_prompts(40):
        assert 'id="fx-lead"' in ask(explorer, prompt)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scale": 9}, "scale: 9.0, expected -1 to 2"),
        ({"scale": "x"}, "could not convert string to float"),
        ({"scale": None}, "float"),
        ({"directions": -3}, "directions: -3, expected 0"),
        ({"directions": float("inf")}, "cannot convert float infinity"),
        ({"patch_from": "base", "patch_layer": 9}, "patch_layer: 9, expected 0 to 1"),
        ({"patch_from": "/etc/passwd"}, "expected one of base, finetuned, reversed"),
        ({"patch_from": "base", "patch_site": None}, "expected one of resid_post, attn_out, mlp_act"),
    ],
)
def test_what_cannot_be_done_is_said_in_its_place(explorer: Explorer, wrong: dict[str, object], said: str) -> None:
    assert said in ask(explorer, "w1", **wrong)


def test_all_directions_are_the_whole_change(explorer: Explorer) -> None:
    most = explorer.edited.most_directions
    prompt = explorer.examples[0]
    assert "nothing is edited" in ask(explorer, prompt, directions=most)
    assert "nothing is edited" in ask(explorer, prompt, directions=0)
    assert f"first 2 of {most} directions" in ask(explorer, prompt, directions=2)


def test_edits_in_words(explorer: Explorer) -> None:
    edit = Edit(scale=0.5, zero_rows=True, patch_from="base", patch_layer=1)
    assert describe_edit(edit, explorer) == (
        "weight change x 0.5, 1 unit zeroed, the whole stream of layer 1 from the base model"
    )
    assert (share(0.0001), share(0.0), share(0.5)) == ("<0.1 %", "0.0 %", "50.0 %")
    assert (share(0.9996), share(0.9994), share(1.0)) == (">99.9 %", "99.9 %", "100.0 %")
    assert (visible(" "), visible("\n"), visible("a b"), visible("")) == ("␣", "⏎", "a b", "␣")
