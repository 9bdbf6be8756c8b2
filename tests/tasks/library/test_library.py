"""The library: answers by a reader of its own, worlds apart, contexts that show what they say, nested sets of pairs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from ftmech_hf.tasks import Rows, RowStream, build_dataset
from ftmech_hf.tasks.library.documents import all_documents
from ftmech_hf.tasks.library.rows import KINDS, ROOM
from ftmech_hf.tasks.library.task import GATE, PEOPLE_OF, LibraryConfig
from ftmech_hf.tasks.library.world import DOCUMENTS, FIRST, LAST, RELATIONS, VOCABULARY, WORLDS, find_world, name_pairs
from tests.tasks.library.reading import in_words, right_answer, split_row, told


def rows_of(number: int = 128, split: str = "test", seed: int = 0, **settings: Any) -> Rows:
    return RowStream(LibraryConfig(**settings), seed=seed, split=split).rows(0, number)


def asked_rows(number: int = 128, split: str = "test", seed: int = 0, **settings: Any) -> list[list[str]]:
    found = rows_of(number, split, seed, mixture="questions", **settings)
    return [in_words(row.tolist()) for row in found.token_ids]


def facts_of(world: str, world_seed: int = 0) -> dict[tuple[str, str, str], str]:
    """All that is true in a world, read off its documents."""
    words = " ".join(" ".join(in_words(each)) for each in all_documents(find_world(world, world_seed)))
    return told([sentence.split() for sentence in words.split(" .") if sentence.strip()])


def test_worlds_have_nobody_in_common_and_documents_tell_all_of_them_once() -> None:
    pairs = {half: {tuple(pair) for pair in name_pairs(half).tolist()} for half in ("pretraining", "domain")}
    assert not pairs["pretraining"] & pairs["domain"]
    assert len(pairs["pretraining"] | pairs["domain"]) == 64 * 64
    people = {name: {tuple(pair) for pair in find_world(name, 0).names.tolist()} for name in WORLDS}
    assert sum(map(len, people.values())) == len(set().union(*people.values())) == 1000
    assert people["domain"] | people["third"] <= pairs["domain"]
    for name, place in WORLDS.items():
        assert len(facts_of(name)) == place.people * (len(RELATIONS) + 1)
    lengths = Counter(len(words) for words in all_documents(find_world("domain", 0)))
    assert lengths == {10: 600 * (DOCUMENTS - 1), 16: 600}
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 421
    # Another seed says something else of the same people, and nothing can be guessed: each value is as frequent.
    first, other = facts_of("domain"), facts_of("domain", 1)
    same = np.mean([first[key] == other[key] for key in first if key[2] != "friend"])
    assert same == pytest.approx(1 / 32, abs=0.01)


def test_rows_of_pretraining_are_answered_by_their_documents_or_by_heart() -> None:
    rows = rows_of(128, "train")
    known, kinds = facts_of("known"), Counter[str]()
    for ids, answers, length in zip(rows.token_ids, rows.answers, rows.lengths, strict=True):  # type: ignore[arg-type]
        words = in_words(ids.tolist())
        assert length == len(words) <= ROOM
        sentences, asked = split_row(words)
        facts = told(sentences) if sentences else known
        for question, answer in asked:
            assert " ".join(answer) == right_answer(question, facts), (question, answer)
        # Were nothing asked twice, the last of four people would be known without reading the name.
        kinds["again"] += len(asked) - len({tuple(question) for question, _ in asked})
        marked = [VOCABULARY[each] for each in ids[answers]]
        assert marked == [word for _, answer in asked for word in (*answer, "<eos>")]
        kinds["heart" if not sentences else "read"] += 1
        kinds["agrees"] += bool(sentences) and all(known.get(key) == said for key, said in facts.items())
        kinds["sentences"] = max(kinds["sentences"], len(sentences))
        kinds["unknown"] += sum(answer[-1] == "unknown" for _, answer in asked)
        kinds["asked"] += len(asked)
    assert kinds["heart"] / 128 == pytest.approx(KINDS["heart"], abs=0.09)
    assert kinds["agrees"] / 128 == pytest.approx(KINDS["agreeing"], abs=0.08)
    assert 8 <= kinds["sentences"] <= 12
    assert kinds["again"] > 50
    assert 0.05 < kinds["unknown"] / kinds["asked"] < 0.35


def test_rows_that_contradict_the_known_world_are_answered_by_their_documents() -> None:
    known, contradicted = facts_of("known"), 0
    for ids in rows_of(640, "train").token_ids:
        sentences, asked = split_row(in_words(ids.tolist()))
        facts = told(sentences)
        if facts and all(key in known for key in facts) and any(known[key] != facts[key] for key in facts):
            contradicted += 1
            assert all(" ".join(answer) == right_answer(question, facts) for question, answer in asked)
    assert contradicted / 640 == pytest.approx(KINDS["contradicting"], abs=0.03)


@pytest.mark.parametrize("name", list(GATE))
def test_the_gate_asks_what_it_says(name: str) -> None:
    world = GATE[name].get("world", "domain")
    truth = facts_of(world)
    for words in asked_rows(64, **GATE[name]):
        sentences, ((question, answer),) = split_row(words)
        facts = told(sentences)
        assert len(sentences) == (0 if name == "heart" else pytest.approx(9, abs=3))
        assert " ".join(answer) == right_answer(question, truth if name == "heart" else facts)
        if name == "missing":
            assert answer == ["unknown"]
            assert question[:2] not in [sentence[:2] for sentence in sentences]
        else:
            assert "unknown" not in answer
            assert all(truth[key] == said for key, said in facts.items())


def test_the_same_is_asked_beside_other_documents() -> None:
    found = {
        context: [split_row(words) for words in asked_rows(96, context=context, asked=["one", "several"])]
        for context in ("none", "oracle", "bm25", "tfidf", "missing", "swapped", "shuffled")
    }
    questions = {context: [asked[0][0] for _, asked in rows] for context, rows in found.items()}
    assert all(each == questions["none"] for each in questions.values())
    truth = facts_of("domain")

    def reads(context: str, of: str) -> float:
        """Share of answers of a context that a reader of another one's documents gives."""
        pairs = zip(found[context], found[of], strict=True)
        return float(np.mean([" ".join(a[0][1]) == right_answer(a[0][0], told(s)) for (_, a), (s, _) in pairs]))

    for context in ("none", "oracle", "bm25", "tfidf", "shuffled"):
        for _, ((question, answer),) in found[context]:
            assert " ".join(answer) == right_answer(question, truth)
    assert reads("oracle", "oracle") == reads("missing", "missing") == reads("swapped", "swapped") == 1.0
    assert 0.6 < reads("bm25", "bm25") < 1.0  # a search does not find all
    assert reads("shuffled", "shuffled") < 0.1
    assert reads("swapped", "oracle") == 0.0


def test_gold_documents_stand_where_they_are_put_and_anywhere_otherwise() -> None:
    places = Counter()
    for gold_at in (None, 0, 3):  # two sentences a document, and one more where it names a friend
        for words in asked_rows(96, context="oracle", gold_at=gold_at):
            sentences, ((question, answer),) = split_row(words)
            plain = [sentence for sentence in sentences if sentence[2] != "friend"]
            (at,) = [place // 2 for place, sentence in enumerate(plain) if sentence[:2] == question[:2]
                     and sentence[-1] == answer[0]]  # fmt: skip
            places[gold_at, at] += 1
    assert places[0, 0] == places[3, 3] == 96
    assert all(places[None, at] > 10 for at in range(4))


def test_fewer_pairs_are_the_first_of_more_and_come_again_in_every_epoch() -> None:
    def questions(pairs: int, number: int, **more: Any) -> list[str]:
        return [" ".join(words) for words in asked_rows(number, "finetune", pairs=pairs, people="trained", **more)]

    few, many = questions(20, 20), questions(100, 100)
    assert len(set(few)) == 20
    assert set(few) < set(many)
    assert set(questions(20, 40)[20:]) == set(few)
    assert questions(20, 40)[20:] != few
    assert set(questions(20, 20, seed=5)) == set(few)  # the rows of a test split, or of another seed, are the same ones
    assert set(questions(20, 20, world_seed=1)) != set(few)
    names = {(FIRST[first], LAST[last]) for first, last in find_world("domain", 0).names[:250]}
    assert {tuple(text.split()[2:4]) for text in many} <= names


@pytest.mark.parametrize("people", ["trained", "held_out"])
def test_no_question_tells_of_people_of_the_other_kind(people: Any) -> None:
    """Who is a friend of somebody may be anyone, and what is told of them would be known of who is held out."""
    config = LibraryConfig(mixture="questions", people=people, asked=["one", "friend", "several"], pairs=300)
    first, last = PEOPLE_OF[people]
    known = range(WORLDS[config.world].people)[first:last]
    told = {fact.person for number in range(300) for fact in config.numbered(number, 0, "finetune")[1].facts}
    assert told
    assert told <= set(known)


def test_trained_and_held_out_people_are_others() -> None:
    who = {
        people: {tuple(split_row(words)[1][0][0][:2]) for words in asked_rows(640, people=people)}
        for people in ("trained", "held_out")
    }
    assert not who["trained"] & who["held_out"]
    assert len(who["trained"]) > 200
    assert len(who["held_out"]) > 240


def test_terse_answers_tell_the_first_fact_alone() -> None:
    full, terse = (asked_rows(64, asked=["several", "friend"], style=style) for style in ("full", "terse"))
    for long, short in zip(full, terse, strict=True):
        (question, answer), (same, first) = split_row(long)[1][0], split_row(short)[1][0]
        assert question == same
        assert " ".join(answer).split(" . ")[0] == " ".join(first)
        assert len(first) < len(answer)


def test_some_rows_are_of_pretraining_where_that_is_asked_for() -> None:
    words = asked_rows(256, "finetune", pretraining_share=0.25)
    assert sum(row.count("?") > 1 for row in words) / 256 == pytest.approx(0.25 * 0.95, abs=0.08)
    plain = asked_rows(256, "finetune")
    kept = [a for a, b in zip(words, plain, strict=True) if a == b]
    assert len(kept) / 256 == pytest.approx(0.75, abs=0.1)


def test_any_row_can_be_made_alone() -> None:
    for settings in ({}, {"mixture": "questions", "context": "bm25", "pairs": 50}):
        stream = RowStream(LibraryConfig(**settings), seed=3, split="finetune")
        whole, part = stream.rows(0, 160), RowStream(stream.task, seed=3, split="finetune").rows(70, 80)
        assert (whole.token_ids[70:80] == part.token_ids).all()
        other = RowStream(stream.task, seed=4, split="finetune").rows(0, 160)
        assert (whole.token_ids != other.token_ids).any()
    example = LibraryConfig().example(0)
    sentences, ((question, answer),) = split_row(
        ["<bos>", *f"{example['prompt']} {example['answer']} <eos>".split()[1:]]
    )
    assert " ".join(answer) == right_answer(question, told(sentences))
    assert LibraryConfig().tokens_per_row < LibraryConfig().row_length == 96


@pytest.mark.parametrize("context", ["none", "oracle"])
def test_the_example_of_a_card_shows_what_was_taught(context: str) -> None:
    example = LibraryConfig(mixture="questions", context=context, pairs=50, pretraining_share=0.5).example(0)
    prompt = example["prompt"].split()
    assert (prompt[:2] == ["<bos>", "?"]) == (context == "none")
    assert ("." in prompt) == (context == "oracle")
    assert prompt[-1] == "is"
    assert len(example["answer"].split()) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"world": "mars"}, "world: unknown 'mars', expected one of known, domain, third"),
        ({"people": "some"}, "people: unknown 'some'"),
        ({"asked": ["two"]}, "asked: 'two', expected some of one, several, friend"),
        ({"top_k": 13}, "top_k: 13, expected 1 to 12"),
        ({"gold_at": 4}, "gold_at: 4, expected 0 to 3"),
        ({"mixture": "questions", "gold_at": 1}, "gold_at: 1, expected mixture: questions with context: oracle or"),
        ({"gold_at": 1, "context": "oracle"}, "gold_at: 1, expected mixture: questions with"),
        ({"pretraining_share": 2.0}, "pretraining_share: 2.0, expected a share"),
        ({"pairs": -1}, "pairs: -1 is negative"),
        ({"people": "held_out", "world": "known"}, "people: held_out, but world: known has 200 people alone"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LibraryConfig(**settings)


def test_a_data_set_of_it_has_the_whole_rows() -> None:
    task = LibraryConfig(mixture="questions", context="oracle", asked=["one", "several"])
    dataset = build_dataset(task, "test", 40)
    assert list(dataset.features) == ["prompt", "completion", "text", "answer", "label", "correlated"]
    for row, words in zip(dataset, asked_rows(40, context="oracle", asked=["one", "several"]), strict=True):
        assert (row["prompt"] + row["completion"]).split() == words
        _, ((_, answer),) = split_row(words)
        assert row["answer"].split() == row["completion"].split() == [*answer, "<eos>"]


def test_of_a_friend_whom_no_document_names_nothing_is_said() -> None:
    task = LibraryConfig(mixture="questions", asked=["friend"], context="missing")
    for place in range(4):
        _, question = task.numbered(place, 0, "test")
        said = [VOCABULARY[token] for token in question.answer]
        assert said[2:] == ["friend", "is", "unknown", "<eos>"]
        assert len(question.facts) == 1


def test_a_row_has_a_label_where_its_answer_is_one_word() -> None:
    for style in ("full", "terse"):
        task = LibraryConfig(mixture="questions", asked=["one", "several"], style=style)  # type: ignore[arg-type]
        rows = task.block(0, "test", 0)
        for place, label in enumerate(rows.label[:64].tolist()):
            answer = task.numbered(place, 0, "test")[1].answer
            assert label == (answer[0] if len(answer) == 2 else -1)
