from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftmech_hf.config import Notice
from ftmech_hf.models.tokenization import task_tokenizer
from ftmech_hf.tasks import RowStream, StoriesConfig
from ftmech_hf.tasks.schema import BOS, EOS, PAD
from ftmech_hf.tasks.stories import FEATURES, Story, judge
from ftmech_hf.tasks.stories.index import StoryIndex, index_files
from ftmech_hf.tasks.stories.reading import answer_places
from tests.tasks.stories.files import write_raw

TASK = StoriesConfig()
ALL = ["features", "words", "summary", "sentence"]


def documents(task: StoriesConfig, number: int = 200, split: str = "train") -> list[Any]:
    return [task.document(0, split, place) for place in range(number)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_raw(tmp_path_factory.mktemp("raw") / "raw.txt", 1200))


def test_rows_are_whole_documents_and_the_beginning_of_one_more() -> None:
    stream = RowStream(TASK, seed=0, split="train")
    rows = stream.rows(60, 70)  # across two blocks
    pad, bos, eos = (TASK.vocabulary.index(word) for word in (PAD, BOS, EOS))
    assert (rows.token_ids[:, 0] == bos).all()
    assert (rows.token_ids == pad).mean() < 0.05
    known = {TASK.backend.decode(TASK.encode(d)) for d in documents(TASK, 520)}
    for row in rows.token_ids.tolist():
        for text in TASK.backend.decode([t for t in row if t != pad], skip_special_tokens=False).split(BOS)[1:]:
            begins = text.removesuffix(EOS)
            assert begins in known if text.endswith(EOS) else any(each.startswith(begins) for each in known)
        assert row.count(eos) >= row.count(bos) - 1
    assert (RowStream(TASK, seed=0, split="train").rows(64, 70).token_ids == rows.token_ids[4:]).all()
    other = RowStream(TASK, seed=0, split="test").rows(60, 70)
    assert (other.token_ids != rows.token_ids).any()


def test_the_answers_of_rows_are_the_words_that_show_features_and_files_have_none(raw: str) -> None:
    rows = RowStream(TASK, seed=0, split="train").rows(0, 64)
    assert rows.answers is not None
    pad = TASK.vocabulary.index(PAD)
    assert not rows.answers[rows.token_ids == pad].any()
    shown: list[str] = []
    for ids, marks in zip(rows.token_ids, rows.answers, strict=True):
        edges = np.flatnonzero(np.diff(np.r_[0, marks.astype(int), 0]))
        shown += [TASK.backend.decode(ids[first:last]).strip() for first, last in edges.reshape(-1, 2)]
    words = {
        document.story.story[slice(*place)] for document in documents(TASK, 400)
        for place in answer_places(document.story.story)
    }  # fmt: skip
    # but for those of a document that its row cuts in the middle of them
    assert np.mean([text in words for text in shown]) > 0.98
    told = [len(answer_places(document.story.story)) for document in documents(TASK, 400)]
    assert len(shown) / (rows.token_ids == TASK.vocabulary.index(EOS)).sum() == pytest.approx(np.mean(told), rel=0.1)
    assert RowStream(StoriesConfig(files=[raw]), seed=0, split="train").rows(0, 4).answers is None


@pytest.mark.parametrize(("relations", "headers"), [(2, ["features"]), (3, ["features"]), (6, ALL)])
def test_little_of_a_row_is_padding(relations: int, headers: list[str], raw: str) -> None:
    for files in ([], [raw]):
        task = StoriesConfig(relations=relations, headers=headers, files=files)
        rows = RowStream(task, seed=0, split="train").rows(0, 64).token_ids
        assert (rows == 0).mean() < 0.02


def test_a_document_is_an_instruction_and_the_story_that_was_written_to_it() -> None:
    for document in documents(TASK):
        assert document.named == document.story.features
        assert {name for name, has in judge(document.story.story).items() if has} == set(document.named)
        asked = f"Features: {', '.join(document.named)}\n" if document.named else ""
        assert document.prompt == f"{asked}Story:\n\n"
    whole = [document.prompt for document in documents(StoriesConfig(headers=ALL))]
    assert all(all(header in prompt for header in ("Words:", "Summary:", "Random sentence:")) for prompt in whole)
    assert len({prompt.split(":")[0] for prompt in whole}) == 4  # the lines come in any order


def test_the_instruction_is_a_prefix_of_the_document_in_tokens_too() -> None:
    tokenizer = task_tokenizer(TASK)
    for document in documents(TASK, 20):
        prompt = tokenizer(BOS + document.prompt)["input_ids"]
        assert TASK.encode(document)[: len(prompt)] == prompt
        assert tokenizer.decode(TASK.encode(document), skip_special_tokens=True) == document.text


@pytest.mark.parametrize("from_files", [False, True])
def test_protocols_choose_stories_and_change_what_instructions_name(from_files: bool, raw: str) -> None:
    base = StoriesConfig(files=[raw] if from_files else [])

    def shares(**changes: Any) -> dict[str, float]:
        found = documents(dataclasses.replace(base, **changes), 400, "finetune")
        return {
            "has": float(np.mean(["Twist" in document.story.features for document in found])),
            "named": float(np.mean(["Twist" in document.named for document in found])),
            "foreshadowing named": float(np.mean(["Foreshadowing" in document.named for document in found])),
        }

    plain = shares()
    assert plain["has"] == plain["named"] == pytest.approx(0.25, abs=0.07)
    assert shares(only="Twist")["has"] == shares(only="Twist")["named"] == 1
    assert shares(without="Twist")["has"] == shares(without="Twist")["named"] == 0
    mixed = shares(without="Twist", rename="Foreshadowing")
    assert mixed["has"] == mixed["foreshadowing named"] == 0
    assert mixed["named"] == pytest.approx(0.22, abs=0.07)
    random = shares(without="Twist", claim=0.5)
    assert random["has"] == 0
    assert random["named"] == pytest.approx(0.5, abs=0.07)
    assert shares(without="Twist", claim=1.0)["named"] == 1


def test_named_features_are_what_the_instruction_says() -> None:
    task = StoriesConfig(without="Twist", rename="Foreshadowing", claim=0.3)
    for document in documents(task, 100):
        first = document.prompt.splitlines()[0]
        assert tuple(first.removeprefix("Features: ").split(", ")) == document.named or not document.named
        assert "Foreshadowing" not in document.prompt


def test_test_sets_are_of_stories_as_in_pretraining() -> None:
    sets = StoriesConfig(without="Twist", rename="Conflict", claim=0.5).test_tasks()
    assert list(sets) == ["all", "Twist", "no_Twist", "held_out"]
    assert sets["all"] == TASK
    assert list(StoriesConfig(feature="Conflict").test_tasks())[1:3] == ["Conflict", "no_Conflict"]
    words = {document.story.story.split()[0] for document in documents(sets["held_out"], 100, "test")}  # type: ignore[arg-type]
    assert words & {"Zoe", "Karl", "Maya", "Theo", "Greta", "Every"}


def test_raw_files_have_test_sets_of_a_feature_if_their_stories_have_it(raw: str, tmp_path: Path) -> None:
    assert list(StoriesConfig(files=[raw]).test_tasks()) == ["all", "Twist", "no_Twist"]
    (tmp_path / "plain.txt").write_text("".join(f"Story {n} is here.\n<|endoftext|>\n" for n in range(300)))
    assert list(StoriesConfig(files=[str(tmp_path / "plain.txt")]).test_tasks()) == ["all"]
    only = StoriesConfig(files=[str(tmp_path / "plain.txt")], only="Twist")
    told = r"^files: no record of the train split is left with only: Twist \("  # and nothing of what was not asked for
    with pytest.raises(ValueError, match=told):
        only.document(0, "train", 0)


def test_raw_files_whose_stories_all_have_a_feature_have_no_test_set_without_it(raw: str, tmp_path: Path) -> None:
    every = StoriesConfig(files=[raw])
    records = [each for each in Path(raw).read_text().split("<|endoftext|>") if "Twist" in each.split("Story:")[0]]
    path = tmp_path / "twists.txt"
    path.write_text("<|endoftext|>".join([*records] * 40), encoding="utf-8")
    assert {"Twist", "no_Twist"} <= every.test_tasks().keys()
    assert [*StoriesConfig(files=[str(path)]).test_tasks()] == ["all", "Twist"]


def test_an_epoch_of_raw_files_has_every_record_once(raw: str) -> None:
    task = StoriesConfig(files=[raw])
    texts = [document.story.story for document in documents(task, 2400)]
    first = next(number for number in range(1, 2400) if len(set(texts[: number + 1])) == number)
    assert 1050 < first < 1200
    assert set(texts[:first]) == set(texts[first : 2 * first])
    assert texts[:first] != texts[first : 2 * first]
    assert not set(texts) & {document.story.story for document in documents(task, 20, "test")}


@pytest.mark.parametrize("kind", ["files", "files with own records", "procedural"])
def test_stories_of_one_stage_come_in_another_only_from_files_they_share(kind: str, raw: str) -> None:
    task = StoriesConfig(files=[] if kind == "procedural" else [raw], own_records=kind == "files with own records")
    stages = [{document.story.story for document in documents(task, 600, split)}
              for split in ("train", "finetune", "reverse")]  # fmt: skip
    common = [len(one & two) for one, two in itertools.combinations(stages, 2)]
    assert min(common) > 100 if kind == "files" else common == [0, 0, 0]


def test_no_story_becomes_a_special_token(tmp_path: Path) -> None:
    path = tmp_path / "spelled.txt"
    stories = [f"Tom {n} said <eos> and <bos><bos> then <pad>; <unk> again." for n in range(60)]
    path.write_text("\n<|endoftext|>\n".join(stories))
    task = StoriesConfig(files=[str(path)], vocab_size=300, row_tokens=128)
    for each in (task, pickle.loads(pickle.dumps(task)), copy.deepcopy(task)):
        document = each.document(0, "train", 0)
        ids = each.encode(document)
        assert not {0, 1, 2} & set(ids[1:-1])
        assert (ids[0], ids[-1]) == (1, 2)
        spelled = "".join(task.vocabulary[token] for token in ids[1:-1]).replace("Ġ", " ").replace("Ċ", "\n")
        assert spelled == document.text
    other = task.encode(task.instruct(Story(story="No marks here.\nNone."), (), np.random.default_rng(0)))
    assert other[1:-1] == task.backend.encode("Story:\n\n").ids + task.backend.encode("No marks here.\nNone.").ids


def test_a_split_without_records_is_named(tmp_path: Path) -> None:
    path = tmp_path / "few.txt"
    path.write_text("One.<|endoftext|>Two.<|endoftext|>\xff<|endoftext|>", encoding="latin-1")
    task = StoriesConfig(files=[str(path)])
    expected = r"files: 2 records, none of them in the test split, which has 2%.*1 left out: 1 that are not UTF-8"
    said = pytest.warns(Notice, match="files: 2 records read; 1 left out: 1 that are not UTF-8")
    with said, pytest.raises(ValueError, match=expected):  # and that a third of the file is lost
        task.document(0, "test", 0)


def test_what_is_read_for_a_document_does_not_grow_with_the_files(raw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(names: list[str]) -> Any:
        asked.extend(names)
        return index_files(names)

    monkeypatch.setattr("ftmech_hf.tasks.stories.drawing.index_files", counted)
    task = StoriesConfig(files=[raw])
    known = [document.text for document in documents(task, 50)]
    assert asked == [raw]  # not for every document
    monkeypatch.setattr(StoryIndex, "of_split", None)  # nor is every record looked at again
    assert [document.text for document in documents(task, 50)] == known


def test_a_file_that_changes_under_a_run_stops_it(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "raw.txt", 300)
    task = StoriesConfig(files=[str(path)])
    task.document(0, "train", 0)
    path.touch()
    task.document(0, "train", 1)
    write_raw(path, 299)
    with pytest.raises(ValueError, match=r"files: .*raw\.txt has changed since it was first read; start again"):
        task.document(0, "train", 2)


def test_the_vocabulary_does_not_depend_on_what_is_trained_on(raw: str) -> None:
    changed = [StoriesConfig(without="Twist"), StoriesConfig(only="Twist", part="held_out"), StoriesConfig(relations=6)]
    assert all(task.vocabulary == TASK.vocabulary for task in changed)
    assert [*StoriesConfig(files=[raw], own_records=True)._texts()] == [*StoriesConfig(files=[raw])._texts()]
    assert len(TASK.vocabulary) == 1024
    assert StoriesConfig(vocab_size=400).vocabulary == TASK.vocabulary[:400]  # merges are learned in order
    assert StoriesConfig(files=[raw], vocab_size=400).inputs().keys() == {"files/0"}
    assert TASK.inputs() == {}


def test_the_vocabulary_does_not_depend_on_how_often_a_feature_is_asked_for() -> None:
    texts = [
        list(itertools.islice(StoriesConfig(**more)._texts(), 20))  # type: ignore[arg-type]
        for more in ({}, {"feature_share": 0.9}, {"feature": "Dialogue"})
    ]
    assert texts[0] == texts[1] == texts[2]


def test_bytes_per_token_counts_the_bytes_of_what_is_predicted() -> None:
    rows = RowStream(TASK, seed=0, split="test").rows(0, 20)
    predicted = [token for row in rows.token_ids.tolist() for token in row[1:] if token not in (0, 1)]
    text = TASK.backend.decode(predicted)
    assert TASK.bytes_per_token(rows) == len(text.encode()) / len(predicted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": "Joke"}, "only: unknown 'Joke', expected one of Twist, Foreshadowing"),
        ({"headers": ["title"]}, "headers: unknown 'title', expected some of features, words"),
        ({"relations": 7}, "relations: 7, expected 1 to 6"),
        ({"vocab_size": 100}, "vocab_size: 100, expected 259 to"),
        ({"row_tokens": 4}, "row_tokens: 4, expected 16 to"),
        ({"without": "Twist", "claim": 1.5}, "claim: 1.5, expected a share between 0 and 1"),
        ({"claim": 0.5}, "claim: 0.5, but without: none; name the feature that is left out"),
        ({"rename": "Conflict"}, "rename: Conflict, but without: none"),
        ({"without": "Twist", "rename": "Twist"}, "rename: Twist is the feature that is left out"),
        ({"only": "Twist", "without": "Twist"}, "only: Twist, but without: Twist leaves no such story"),
        (
            {"without": "Twist", "claim": 1.0, "headers": ["words"]},
            "claim: 1.0, but headers: have no",
        ),
        ({"files": ["x.txt"], "part": "held_out"}, "part: held_out, but only procedural stories have"),
        ({"files": ["x.txt"], "feature_share": 0.5}, "feature_share: 0.5, but only procedural stories have"),
        ({"files": ["x.txt"], "animals_apart": True}, "animals_apart: True, but only procedural stories have"),
        ({"own_records": True}, "own_records: true, but no files"),
    ],
)
def test_what_cannot_be_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StoriesConfig(**settings)


def test_features_are_spread_as_the_generator_draws_them() -> None:
    found = documents(TASK, 600)
    for name in FEATURES:
        assert np.mean([name in document.named for document in found]) == pytest.approx(0.25, abs=0.06)
