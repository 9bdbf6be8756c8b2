"""A reader of library rows that knows the rules and nothing of the code that writes them."""

from __future__ import annotations

from ftmech_hf.tasks.library.world import RELATIONS, VOCABULARY

MEANS = {word: relation for relation, others in RELATIONS.items() for word in (relation, *others)} | {
    "friend": "friend"
}


def split_row(words: list[str]) -> tuple[list[list[str]], list[tuple[list[str], list[str]]]]:
    """The sentences of the documents of a row, and its questions, each with its answer."""
    assert words[0] == "<bos>"
    first = words.index("?")
    documents = " ".join(words[1:first]).split(" .")
    sentences = [sentence.split() for sentence in documents if sentence.strip()]
    asked = []
    for part in " ".join(words[first:]).split("? ")[1:]:
        spelled = part.split()
        end = spelled.index(":" if ":" in spelled else "is") + 1
        question, answer = spelled[:end], spelled[end:]
        assert answer[-1] == "<eos>"
        asked.append((question, answer[:-1]))
    return sentences, asked


def told(sentences: list[list[str]]) -> dict[tuple[str, str, str], str]:
    """First name, last name, relation -> what documents say of it."""
    found = {}
    for first, last, word, *said in sentences:
        key = (first, last, MEANS[word])
        assert key not in found, key
        found[key] = " ".join(said)
    return found


def right_answer(question: list[str], facts: dict[tuple[str, str, str], str]) -> str:
    """What a reader of these facts answers."""
    first, last, *asked = question

    def say(a: str, b: str, relation: str) -> str:
        return f"{a} {b} {relation} is {facts.get((a, b, relation), 'unknown')}"

    if asked[-1] == "is":
        return say(first, last, asked[0]).rpartition("is ")[2]
    relations = asked[:-1]
    if relations[0] != "friend":
        return " . ".join(say(first, last, each) for each in relations)
    friend = facts[first, last, "friend"].split()
    return f"{say(first, last, 'friend')} . {say(friend[0], friend[1], relations[1])}"


def in_words(token_ids: list[int]) -> list[str]:
    """Token ids as words, without padding."""
    return [VOCABULARY[each] for each in token_ids if VOCABULARY[each] != "<pad>"]
