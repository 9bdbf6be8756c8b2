"""Questions for one fact: right by a reader of the test's own, and their parts share nothing that could be learned."""

from __future__ import annotations

import json
from pathlib import Path

from ftmech_hf.jobs.prompts import from_datasets
from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.studies.retrieval.diagnoses import ROWS, case_config, write_questions
from ftmech_hf.studies.retrieval.one_fact import ROWS_OF_A_WORLD, Part, ask_one_fact
from ftmech_hf.tasks import LibraryConfig
from ftmech_hf.tasks.library.world import VOCABULARY, find_world, name_pairs
from tests.tasks.library.reading import in_words, right_answer, split_row, told

PARTS: tuple[Part, ...] = ("fit", "choose", "report")


def test_documents_tell_what_is_asked_and_a_reader_answers_it() -> None:
    for part in PARTS:
        for asked in ask_one_fact(part, 20, 3):
            sentences, [(question, answer)] = split_row([*in_words(asked.prompt), VOCABULARY[asked.value], "<eos>"])
            assert right_answer(question[1:] if question[0] == "?" else question, told(sentences)) == answer[0]
            assert in_words(asked.person) == question[-4:-2]


def test_parts_share_no_fact_and_no_name_of_what_is_reported() -> None:
    def facts(part: Part, number: int = 300) -> set[tuple[str, ...]]:
        return {(*in_words(each.person), VOCABULARY[each.value]) for each in ask_one_fact(part, number, 0)}

    found = {part: facts(part) for part in PARTS}
    people = {part: {each[:2] for each in of_part} for part, of_part in found.items()}
    assert not people["report"] & (people["fit"] | people["choose"])
    held_out = {tuple(in_words([int(a) + _first(), int(b) + _last()])) for a, b in name_pairs("domain")[250:600]}
    assert people["report"] <= held_out
    # The same people have other values in other rows, so that a name tells none: of 300 pairs hardly one is in both.
    assert len(found["fit"] & found["choose"]) <= 10
    assert people["fit"] & people["choose"]


def test_the_third_world_changes_every_few_rows() -> None:
    asked = list(ask_one_fact("fit", 2 * ROWS_OF_A_WORLD, 0))
    worlds = [find_world("third", seed) for seed in (1000, 1001)]
    names = {tuple(pair): number for number, pair in enumerate(worlds[0].names.tolist())}
    for number, (_, person, value) in enumerate(asked):
        who = names[person[0] - _first(), person[1] - _last()]
        values = [_value() + 32 * relation + int(each) for relation, each in
                  enumerate(worlds[number // ROWS_OF_A_WORLD].values[who])]  # fmt: skip
        assert value in values


def test_files_hold_the_same_tokens_as_rows_of_the_task(tmp_path: Path) -> None:
    folder = write_questions(tmp_path / "asked", 4)
    lines = {name: (folder / f"{name}.jsonl").read_text().splitlines() for name in ROWS}
    assert {name: len(each) for name, each in lines.items()} == {"train": 1024, "validation": 256, "test": 512}
    assert len(json.loads(lines["test"][0])["answer"].split()) == 1
    (behavior,) = from_datasets([str(folder)], build_tokenizer(LibraryConfig.vocabulary), seed=0,
                                train_rows=1024, test_rows=512)  # fmt: skip
    rows = [[each for each in row if each != behavior.pad] for row in behavior.test.token_ids.tolist()]
    asked = [(each.prompt, each.value) for each in ask_one_fact("report", 512, 4)]
    assert sorted((row[:-2], row[-2]) for row in rows) == sorted(asked)
    assert bool((behavior.test.lengths == 1).all())
    assert case_config(1e-4, 300).rows == len(rows)
    assert case_config(1e-4, 8).most_reverse_steps == 32  # never less than the fine-tuned model is given


def _first() -> int:
    return VOCABULARY.index("Alra")


def _last() -> int:
    return VOCABULARY.index("Kerath")


def _value() -> int:
    return VOCABULARY.index("job0")
