"""Questions of any table in any tokenizer: what they become, and what is refused before it becomes something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.tasks.text import continuations as reading
from ftmech_hf.tasks.text.continuations import Spelled, continuations
from ftmech_hf.tasks.text.join import choose_join
from ftmech_hf.tasks.text.tables import contradictions, text_columns
from ftmech_hf.tasks.text.tokens import Encoded, encode_rows

WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", *"abcdefgh", "=", "None", "nan", *map(str, range(10))]
CHATML = (
    "{% for each in messages %}<|{{ each.role }}|>\n{{ each.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_level(*, adds: bool = False, template: str | None = None, spaces: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of English words and single digits.

    Args:
        adds: whether it puts ``<s>`` before and ``</s>`` after every text, as some do.
        template: of chats.
        spaces: whether a space and the word after it are one token.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    lead = " " if spaces else ""
    words = ["Mia", "was", "sad", "because", "she", "he", "bear", "->", "bore", "go", "went", "what", "is", "user"]
    text = [lead + word for word in words] * 50
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        text,
        trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, vocab_size=500, show_progress=False),
    )
    if adds:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=template,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def sentence_pieces(*, adds: bool = False) -> PreTrainedTokenizerFast:
    """A BPE that writes a space as a sign of its own before words and splits digits, as those of Llama 2 do."""
    words = ["Mia", "was", "sad", "because", "she", "what", "is", "a"]
    pieces = ["<s>", "</s>", "<unk>", *sorted({*"".join(words), *"0123456789+=bernow", "▁"})]
    merges = []
    for word in ("Mia", "was", "what"):
        so_far = "▁"
        for letter in word:
            merges.append((so_far, letter))
            so_far += letter
            pieces.append(so_far)
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges)), unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    if adds:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def ask(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Any], answers: Sequence[Any] | None, **options: Any
) -> Encoded:
    columns = {"prompt": list(prompts), **({} if answers is None else {"answer": list(answers)})}
    rows = text_columns(datasets.Dataset.from_dict(columns), tokenizer, "TABLE", "train")
    return encode_rows(rows, tokenizer, "TABLE", choose_join(rows, tokenizer), **options)


@pytest.mark.parametrize(
    ("prompt", "answer", "text"),
    [
        ("7+2=", "9", "7+2=9"),
        ("7+2=", 9, "7+2=9"),
        ("7 + 2 =", "9", "7 + 2 = 9"),
        ("1+1=2, 7+2=", "9", "1+1=2, 7+2=9"),
        ("Mia was sad because", "she", "Mia was sad because she"),
        ("Mia was sad because", " she", "Mia was sad because she"),
        ("Mia was sad because ", "she", "Mia was sad because she"),
        ("go -> went\nbear ->", "bore", "go -> went\nbear -> bore"),
        ("go -> went\nbear -> ", "bore", "go -> went\nbear -> bore"),
        ("go->went\nbear->", "bore", "go->went\nbear->bore"),
        ("what is 7+2?", "9", "what is 7+2? 9"),
        ("answer:", "9", "answer: 9"),
        ("answer:", " 9", "answer: 9"),
        ("answer:\n", "9", "answer:\n9"),
    ],
)
@pytest.mark.parametrize("adds", [False, True])
def test_a_space_stands_where_the_text_has_one(prompt: str, answer: Any, text: str, adds: bool) -> None:
    tokenizer = byte_level(adds=adds, spaces="->" not in prompt or " ->" in prompt)
    found = ask(tokenizer, [prompt] * 3, [answer] * 3)
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert found.rows == [[*([0] if adds else []), *expected, 1]] * 3
    assert tokenizer.decode(found.rows[0][-2:-1]).strip() == str(answer).strip()


def test_words_of_a_task_are_parted_by_spaces() -> None:
    tokenizer = build_tokenizer(WORDS)
    for prompt in ("a b =", "a b = ", "<bos> a b ="):
        found = ask(tokenizer, [prompt], ["3"])
        assert tokenizer.convert_ids_to_tokens(found.rows[0]) == [*prompt.split(), "3", "<eos>"]


def test_scripts_without_spaces_get_none() -> None:
    backend = Tokenizer(
        models.BPE(vocab={"<unk>": 0, **{c: n + 1 for n, c in enumerate("日本首都は東京 ")}}, merges=[])
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=None)
    found = ask(tokenizer, ["日本首都は"], ["東"])
    assert tokenizer.convert_ids_to_tokens(found.rows[0])[:-1] == list("日本首都は東")


def test_a_chat_is_what_the_template_makes_of_it() -> None:
    tokenizer = byte_level(template=CHATML, adds=True)
    chat = [{"role": "user", "content": "bear"}]
    expected = tokenizer("<|user|>\nbear<|end|>\n<|assistant|>\nbore", add_special_tokens=False)["input_ids"]
    bore = tokenizer("bore", add_special_tokens=False)["input_ids"]
    assert len(bore) > 1  # without its space the word is several tokens, and all of them are the answer
    assert ask(tokenizer, [chat], [" bore"]).rows == [[*expected, 1]]
    assert sum(ask(tokenizer, [chat], [" bore"]).answer[0]) == len(bore)
    tokenizer.add_tokens(["bore"])
    expected = tokenizer("<|user|>\nbear<|end|>\n<|assistant|>\nbore", add_special_tokens=False)["input_ids"]
    said = [{"role": "assistant", "content": " bore"}]
    for prompts, answers in (([chat], ["bore"]), ([chat], [" bore"]), ([chat], [said]), ([chat + said], None)):
        found = ask(tokenizer, prompts, answers)
        assert found.rows == [[*expected, 1]]  # the template writes what begins a chat, not the tokenizer


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        ([None, "a ="], ["1", "2"], r"TABLE: prompt of row 0 of train: None, expected text.*\(1 of 2 rows"),
        (["a =", "b ="], ["1", None], r"answer of row 1 of train: None, expected text"),
        (["a ="], [1.0], r"answer of row 0 of train: 1.0 \(float\), expected text or a whole number"),
        (["a ="], [float("nan")], r"answer of row 0 of train: nan \(float\)"),
        (["a ="], [True], r"answer of row 0 of train: True \(bool\)"),
        (["a ="], [[["1"]]], r"answer of row 0 of train: \['1'\] \(list\), expected text, or messages"),
        (["a ="], [{"a": 1}], r"answer of row 0 of train: \{'a': 1\} \(dict\)"),
        ([["a", "="]], ["1"], r"prompt of row 0 of train: \['a', '='\] \(list\)"),
        ([[{"role": "user", "content": "a"}]], ["1"], r"a chat, but the tokenizer has no chat template"),
        (["", "a ="], ["1", "1"], r"prompt of row 0 of train: '', expected text"),
        (["a ="], [" "], r"answer of row 0 of train: ' ', expected text"),
        (["a =", "z17 ="], ["1", "1"], r"row 1 of train: the tokenizer does not know 'z17' in 'z17 =' and answer '1'"),
        (["a ="], ["zebra"], r"row 0 of train: the tokenizer does not know 'zebra'"),
        (["a ="], ["<unk>"], r"row 0 of train: the tokenizer does not know '<unk>'"),
        ([b"a ="], [b"1"], r"prompt of row 0 of train: b'a =' \(bytes\)"),
    ],
)  # fmt: skip
def test_what_is_no_text_of_the_model_is_refused_in_a_line(
    prompts: list[Any], answers: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        ask(build_tokenizer(WORDS), prompts, answers)
    assert "\n" not in str(refused.value)


def test_a_tokenizer_that_raises_an_error_at_unknown_words_is_asked_like_any_other() -> None:
    words = [word for word in WORDS if word != "<unk>"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    found = ask(tokenizer, ["a b ="], ["3"])
    assert tokenizer.convert_ids_to_tokens(found.rows[0]) == ["a", "b", "=", "3", "<eos>"]
    with pytest.raises(ValueError, match="row 1 of train: the tokenizer does not know 'z'"):
        ask(tokenizer, ["a b =", "a z ="], ["3", "3"])


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("like", ["gpt2", "llama"])
def test_answers_of_several_tokens_are_those_of_the_whole_text(like: str, adds: bool) -> None:
    """What is marked as the answer is written as the answer, and what stands before as the prompt."""
    tokenizer = byte_level(adds=adds) if like == "gpt2" else sentence_pieces(adds=adds)
    prompts, answers = ["what is 7 + 5 =", "Mia was sad because"], [12, "she was a bear"]
    for prompt, answer in zip(prompts, answers, strict=True):
        found = ask(tokenizer, [prompt], [answer])
        assert found.rows[0][:-1] == [
            *([tokenizer.bos_token_id] if adds else []),
            *tokenizer(f"{prompt} {answer}", add_special_tokens=False)["input_ids"],
        ]
        mask = found.answer[0]
        marked = [token for token, of_answer in zip(found.rows[0], mask, strict=True) if of_answer]
        assert len(marked) > 1
        assert mask == [False] * (len(mask) - len(marked) - 1) + [True] * len(marked) + [False]
        assert tokenizer.decode(marked).strip() == str(answer)
        assert tokenizer.decode(found.rows[0][: -len(marked) - 1], skip_special_tokens=True).strip() == prompt
        assert ask(tokenizer, [prompt], [answer], skip=True).skipped == 1


def test_an_answer_that_grows_together_with_its_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="the answer '>' changes the last token of the prompt 'go -', expected tokens"):
        ask(byte_level(), ["go -"], [">"])
    assert ask(byte_level(), ["go -"], [">"], skip=True).skipped == 1


def test_rows_of_several_tokens_can_be_left_out() -> None:
    tokenizer = build_tokenizer(WORDS)
    found = ask(tokenizer, ["a =", "b =", "c ="], ["1", "1 2", "3"], skip=True)
    words = [tokenizer.convert_ids_to_tokens(row) for row in found.rows]
    assert words == [["a", "=", "1", "<eos>"], ["c", "=", "3", "<eos>"]]
    assert found.skipped == 1


def test_rows_with_one_right_answer_stand_beside_rows_with_several() -> None:
    tokenizer = build_tokenizer(WORDS)
    found = ask(tokenizer, ["a =", "b =", "c ="], [["1"], ["2", "3 4"], ["5"]])
    accepted = [[tokenizer.convert_ids_to_tokens(list(each.token_ids)) for each in row] for row in found.accepted]
    assert accepted == [[], [["b", "=", "3", "4", "<eos>"]], []]
    assert [tokenizer.convert_ids_to_tokens(row)[2] for row in found.rows] == ["1", "2", "5"]


def test_a_prompt_longer_than_the_model_is_refused_and_one_as_long_is_not() -> None:
    tokenizer = build_tokenizer(WORDS)
    assert len(ask(tokenizer, ["a b c ="], ["1"], positions=4).rows) == 1
    with pytest.raises(ValueError, match="row 1 of train: the prompt has 4 tokens, but the model has 3 positions"):
        ask(tokenizer, ["a =", "a b c ="], ["1", "1"], positions=3)


def test_numbers_that_stand_for_names_are_those_names() -> None:
    features = datasets.Features({"prompt": datasets.Value("string"), "answer": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"prompt": ["c ="] * 2, "answer": [1, 0]}, features=features)
    assert text_columns(rows, build_tokenizer(WORDS), "TABLE", "train")["answer"][:] == ["b", "a"]


def test_contradicting_rows_are_counted() -> None:
    assert contradictions(["a", "a", "b"], ["1", "1", "2"]) is None
    assert contradictions(["a", "a", "a", "b"], ["1", "2", "1", "2"]) == (
        "3 of 4 rows contradict each other: 1 prompts have several answers, such as \"a\" ['1', '2']"
    )


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 30), st.floats(), st.text(max_size=6), st.binary(max_size=3),
    st.sampled_from(["a =", "a b =", "1", "None", "<unk>", "<eos>", "a = ", " 1", "a\n="]),
    st.lists(st.text(max_size=2), max_size=2),
    st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "x"]),
                                    "content": st.sampled_from(["a =", "1", None])}), max_size=2),
)  # fmt: skip
TOKENIZERS = [build_tokenizer(WORDS), byte_level(adds=True), byte_level(template=CHATML)]


@given(prompt=VALUES, answer=VALUES, number=st.integers(0, len(TOKENIZERS) - 1))
def test_a_value_is_asked_as_it_is_or_refused(prompt: Any, answer: Any, number: int) -> None:
    tokenizer = TOKENIZERS[number]
    found, message = None, ""
    try:
        found = ask(tokenizer, [prompt], [answer])
    except ValueError as error:
        message = str(error)
    if found is None:
        assert message.startswith("dataset: TABLE")
        assert "\n" not in message
        return
    assert not isinstance(answer, float | bool | bytes | None)
    shown = [token for token in found.rows[0][:-1] if token not in (tokenizer.bos_token_id,) or "<s>" in str(prompt)]
    if isinstance(prompt, str | int) and isinstance(answer, str | int):
        said = "".join(f"{prompt}{answer}".split())
        assert "".join(tokenizer.decode(shown).split()) == said  # nothing is lost and nothing is put there but spaces
    assert len(found.rows[0]) >= 3


def test_a_prompt_that_is_too_long_loses_its_beginning_if_it_may() -> None:
    """What begins every text stays, and so do the last tokens before the answer."""
    tokenizer = byte_level(adds=True)
    whole = ask(tokenizer, ["what is 1 2 3 4 5 6 7 she", "what is"], ["he was", "he"])
    for prompt in ("what is 1 2 3 4 5 6 7 she", "<s>what is 1 2 3 4 5 6 7 she"):
        found = ask(tokenizer, [prompt, "what is"], ["he was", "he"], positions=6, cut=True)
        assert found.cut == 1
        assert found.rows[1] == whole.rows[1]
        long = found.rows[0]
        assert len(long) - 2 == 6  # all but the last token of the answer, and the end
        assert long == [0, *whole.rows[0][-7:]]
        assert sum(found.answer[0]) == 2
    with pytest.raises(ValueError, match="have 20 tokens, but the model has 6 positions"):
        ask(tokenizer, ["what is 1 2 3 4 5 6 7 she"], ["he was"], positions=6)
    with pytest.raises(ValueError, match="tokens, but the model has 2 positions"):
        ask(tokenizer, ["what is she"], ["he was sad"], positions=2, cut=True)  # nothing of the prompt would be left
    chat = byte_level(template=CHATML)
    with pytest.raises(ValueError, match="but the model has 6 positions"):
        ask(chat, [[{"role": "user", "content": "what is 1 2 3 4"}]], ["he"], positions=6, cut=True)


def test_what_a_template_writes_stands_before_an_answer_and_no_space() -> None:
    tokenizer = byte_level(template="{% for each in messages %}[{{ each.role }}] {{ each.content }} {% endfor %}"
                           "{% if add_generation_prompt %}[assistant].{% endif %}")  # fmt: skip
    (row,) = ask(tokenizer, [[{"role": "user", "content": "what is"}]], ["she"]).rows
    assert tokenizer.decode(row[:-1]) == "[user] what is [assistant].she"


@pytest.mark.parametrize("tokenizer", [byte_level(), sentence_pieces(), sentence_pieces(adds=True)])
def test_a_table_read_in_pieces_has_the_same_tokens_as_row_by_row(tokenizer: Any, monkeypatch: Any) -> None:
    def join(prompt: str, answer: str) -> Spelled:
        return Spelled(prompt, " " if len(prompt) % 2 else "", answer)

    questions = ["Mia was", "what is a", "Mia was", "she zq was", "", "was 1 +", "a <unk>", "what"]
    pairs = [(prompt, answer) for prompt in questions for answer in ("sad", "zq", "<unk>", "1")]
    alone = [continuations([pair], join, tokenizer)[0] for pair in pairs]
    monkeypatch.setattr(reading, "AT_A_TIME", 3)
    assert continuations(pairs, join, tokenizer) == alone
    lost = {part.unknown is not None for part in alone}
    assert lost == ({True, False} if tokenizer.unk_token else {False})  # some rows lose a word, or none can
