"""A base and a fine-tuned model answer the same questions, from documents or without: is retrieval helped or harmed?

Four contexts: ``none``; ``retrieved``, what a retriever finds; ``oracle``, the documents that are needed, which shows
what is lost in reading alone; and ``other``, what is found for another question and tells nothing of this one, where
``unknown`` is the right answer of a model that is to keep to its documents, and every right answer is memory.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.config import tell
from ftmech_hf.jobs.endpoint_judge import Judge, check_judge, endpoint_judge
from ftmech_hf.jobs.generation import continue_rows, turn_ends, up_to_end
from ftmech_hf.jobs.grounded_comparison import compare_answers
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, prepared_job
from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.reading_prompts import abstains, read_answer, write_prompt
from ftmech_hf.models.configs import model_positions
from ftmech_hf.models.embedding import load_embedder
from ftmech_hf.models.identity import base_for, model_hash
from ftmech_hf.models.loading import load_tokenizer
from ftmech_hf.retrieval import OracleRetriever, Query, RetrieverConfig, check_embedder, make_retriever
from ftmech_hf.retrieval.collection import Asked, Collection
from ftmech_hf.runs import RunDir, write_json
from ftmech_hf.statistics.text_answers import exact_match, f1_score, rouge_l, string_completeness
from ftmech_hf.tasks.text.identity import dataset_hash
from ftmech_hf.training.loop import Progress

Context = Literal["none", "retrieved", "oracle", "other"]
GROUNDED = "grounded_answers"
"""The kind of these runs."""
MOST_TRIED = 64
"""Questions of which one is looked for whose documents tell nothing of another."""


@dataclass(frozen=True, kw_only=True)
class GroundedConfig(ModelJobConfig):
    """Which models answer which questions, beside which documents."""

    base: str = field(
        default="runs/base", metadata={"place": "input", "help": "folder of a run, or a model on the Hub"}
    )
    finetuned: str = field(default="runs/tuned", metadata={"place": "input", "help": "the same, of the tuned one"})
    data: str = field(default="runs/questions", metadata={"place": "input", "help": "folder of import_qa.py"})
    split: str = field(default="test", metadata={"help": "of the questions"})
    contexts: list[str] = field(
        default_factory=lambda: list(get_args(Context)), metadata={"help": "none, retrieved, oracle, other"}
    )
    top_k: int = field(default=4, metadata={"help": "documents beside a question"})
    embedder: str | None = field(
        default=None,
        metadata={"place": "input", "help": "of retriever dense: an encoder, such as a model of sentence-transformers"},
    )
    judge_url: str | None = field(
        default=None,
        metadata={
            "help": "endpoint of chat completions, such as http://127.0.0.1:8000/v1, that judges answers as well"
        },
    )
    judge_model: str = field(default="judge", metadata={"help": "what that endpoint calls its model"})
    questions: int = field(default=0, metadata={"help": "the first so many of the split; 0 for all"})
    max_new_tokens: int = field(default=48, metadata={"help": "tokens of an answer at most"})
    batch_size: int = field(default=16, metadata={"manner": True, "help": "prompts that are answered side by side"})
    output_dir: str = field(default="runs/grounded-answers", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "top_k", "max_new_tokens", "batch_size")
        if self.questions < 0:
            raise ValueError(f"questions: {self.questions} is negative, expected 0 or more")
        if not self.contexts or set(self.contexts) - set(get_args(Context)):
            raise ValueError(f"contexts: {' '.join(self.contexts)!r}, expected some of {', '.join(get_args(Context))}")
        if len({*self.contexts}) < len(self.contexts):
            raise ValueError(f"contexts: {' '.join(self.contexts)!r}, expected each once")

    @property
    def retrieves(self) -> bool:
        """Whether any context is of documents that a retriever finds."""
        return bool({"retrieved", "other"} & {*self.contexts})

    def inputs(self) -> dict[str, str]:
        """The hash of both tables, and of the encoder if there is one."""
        encoder = {"embedder": model_hash(self.embedder)} if self.embedder else {}
        return {"data": dataset_hash(self.data), **encoder}


def choose_documents(
    collection: Collection, asked: Sequence[Asked], config: GroundedConfig, retriever: RetrieverConfig,
    contexts: Sequence[str] = get_args(Context),
) -> dict[str, list[list[int]]]:  # fmt: skip
    """Numbers of the documents of some contexts, for each question; none where there are none to be had.

    Raises:
        ValueError: an encoder is given that no retriever reads, or the retriever cannot be made.
    """
    check_embedder(retriever, config.embedder, is_needed=config.retrieves)
    documents = [each.whole for each in collection.documents]
    queries = [Query(each.question, collection.gold_numbers(each)) for each in asked]
    top_k, retrieved = min(config.top_k, len(documents)), list[list[int]]()
    if {"retrieved", "other"} & set(contexts):  # of many documents that takes long
        embed = load_embedder(config.embedder, device=config.device) if config.embedder else None
        retrieved = make_retriever(retriever, documents, embed)(queries, top_k).tolist()
    known = [place for place, query in enumerate(queries) if query.gold]
    needed: list[list[int]] = [[] for _ in asked]
    if known and "oracle" in contexts:  # of millions of documents, those by chance take minutes
        widest = min(len(documents), max(top_k, *(len(queries[place].gold) for place in known)))
        oracle = OracleRetriever(len(documents), seed=retriever.retriever_seed)
        for place, row in zip(known, oracle([queries[place] for place in known], widest), strict=True):
            needed[place] = row[: max(top_k, len(queries[place].gold))].tolist()
    chosen: dict[str, list[list[int]]] = {"none": [[] for _ in asked], "retrieved": retrieved, "oracle": needed}
    if "other" in contexts:
        chosen["other"] = documents_of_others(collection, asked, retrieved, seed=retriever.retriever_seed)
    return {context: chosen[context] for context in contexts}


def documents_of_others(
    collection: Collection, asked: Sequence[Asked], retrieved: Sequence[Sequence[int]], *, seed: int
) -> list[list[int]]:
    """What was found for another question and tells nothing of this one; documents by chance where there is none.

    That is neither needed, nor found for this question itself, nor does it have one of its answers. None are left
    where every document is one of these.
    """
    number, found = len(asked), []
    # half the questions away: neighbours are often about one text
    steps = [step % number for step in range(number // 2, number // 2 + min(number, MOST_TRIED)) if step % number]
    for place, each in enumerate(asked):
        taken = {*collection.gold_numbers(each), *retrieved[place]}
        said = [*([answer] for answer in each.answers or ()), *each.facts]

        def is_other(document: int, taken: set[int] = taken, said: Sequence[Sequence[str]] = said) -> bool:
            text = collection.documents[document].whole
            return document not in taken and not (said and string_completeness(text, said))

        best: list[int] = []
        for step in steps:
            best = max(best, [*filter(is_other, retrieved[(place + step) % number])], key=len)
            if len(best) == len(retrieved[place]):
                break
        if not best:
            drawn = np.random.default_rng([seed, place]).permutation(len(collection.documents)).tolist()
            best = [*itertools.islice(filter(is_other, drawn), len(retrieved[place]))]
        found.append(best)
    return found


def score_answer(answer: str, asked: Asked) -> dict[str, float]:
    """How good an answer is; of a question without answers it is right to abstain, and nothing else is scored."""
    silent = abstains(answer)
    if not asked.answers:
        return {"right": float(silent), "abstains": float(silent)}
    return {
        "right": exact_match(answer, asked.answers),
        "f1": f1_score(answer, asked.answers),
        "rouge_l": rouge_l(answer, asked.answers),
        "completeness": string_completeness(answer, asked.facts),
        "abstains": float(silent),
    }


def answer_all(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Asked], texts: Sequence[Sequence[str]],
    *, room: int | None, max_new_tokens: int, batch_size: int,
) -> tuple[list[str], list[int]]:  # fmt: skip
    """What a model answers to each question beside its documents, and how many of them it was shown."""
    prompts = [
        write_prompt(tokenizer, each.question, documents, room) for each, documents in zip(asked, texts, strict=True)
    ]
    ends = turn_ends(model, tokenizer)
    written = continue_rows(
        model, [prompt.token_ids for prompt in prompts], eos=tokenizer.eos_token_id, seed=0,
        max_new_tokens=max_new_tokens, temperature=0.0, batch_size=batch_size,
    )  # fmt: skip
    spelled = [str(tokenizer.decode(up_to_end(ids, ends), skip_special_tokens=True)) for ids in written]
    is_chat = bool(tokenizer.chat_template)
    return [read_answer(text, is_chat=is_chat) for text in spelled], [prompt.shown for prompt in prompts]


def _ask_models(
    config: GroundedConfig, collection: Collection, asked: Sequence[Asked], shown: Mapping[str, list[list[int]]],
    progress: Progress | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each model, context and question; of ``oracle`` and ``other`` where there are such documents."""
    rows: list[dict[str, Any]] = []
    models, alike = {"base": config.base, "finetuned": config.finetuned}, _alike(collection, asked)
    for name, place in models.items():
        below = base_for(name, models)
        model, tokenizer = config.load(place, **below), load_tokenizer(place, **below)
        positions = model_positions(place, **below)
        room = None if positions is None else positions - config.max_new_tokens
        for context in config.contexts:
            here = [n for n, numbers in enumerate(shown[context]) if context not in ("oracle", "other") or numbers]
            if not here:
                tell(f"contexts: {context} is left out: none of {len(asked)} questions has such documents")
                continue
            texts = [[collection.documents[each].whole for each in shown[context][n]] for n in here]
            answers, fitted = answer_all(
                model, tokenizer, [asked[n] for n in here], texts, room=room,
                max_new_tokens=config.max_new_tokens, batch_size=config.batch_size,
            )  # fmt: skip
            read = {n: shown[context][n][:number] for n, number in zip(here, fitted, strict=True)}
            rows += [
                {"model": name, "context": context, "id": asked[n].id, "alike": alike[n], "answer": answer,
                 "shown": len(read[n]), "documents": len(shown[context][n]),
                 "has_gold": bool(gold := {*collection.gold_numbers(asked[n])}), "all_gold": gold <= {*read[n]},
                 **score_answer(answer, asked[n])}
                for n, answer in zip(here, answers, strict=True)
            ]  # fmt: skip
            if cut := sum(len(read[n]) < len(shown[context][n]) for n in here):
                tell(f"top_k: {cut} of {len(here)} prompts of {context} have no room for all documents in the {name} "
                     f"model's {positions} positions")  # fmt: skip
            if progress is not None:
                done = list(models).index(name) * len(config.contexts) + config.contexts.index(context) + 1
                progress(done, len(models) * len(config.contexts), f"{name}, {context}")
    return rows


def answer_questions(config: GroundedConfig, retriever: RetrieverConfig, *, progress: Progress | None = None) -> RunDir:
    """Ask both models everything and compare them, question by question.

    Raises:
        ValueError: something of the data or the models is not as it must be; names the setting.
    """

    def prepare() -> tuple[Collection, list[Asked], dict[str, list[list[int]]], tuple[Judge, float] | None]:
        collection = Collection.read(Path(config.data))
        asked = list(collection.with_known_answers(config.split)[: config.questions or None])
        chosen = choose_documents(collection, asked, config, retriever, config.contexts)
        if config.judge_url is None:
            return collection, asked, chosen, None
        judge = endpoint_judge(config.judge_url, config.judge_model)
        return collection, asked, chosen, (judge, check_judge(judge))

    models = {"base": config.base, "finetuned": config.finetuned}
    with prepared_job(prepare, GROUNDED, config, retriever, models=models) as (run, prepared):
        if run.finished:
            return run
        collection, asked, shown, judged = prepared()
        kept = run.working / "answered.json"  # until a judge has read all: it may fail, and answers take long
        if kept.exists():
            rows: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))
        else:
            rows = _ask_models(config, collection, asked, shown, progress)
        if not rows:
            raise ValueError(f"contexts: {' '.join(config.contexts)}, but no question has such documents")
        if judged is not None:
            judge, kappa = judged
            write_json(kept, rows)
            run.note(judge_kappa=kappa)
            known = {each.id: each for each in asked}
            for row in rows:
                if right := known[row["id"]].answers:
                    row["judged"] = float(judge(known[row["id"]].question, right, row["answer"]))
        summary = compare_answers(pd.DataFrame(rows))
        kept.unlink(missing_ok=True)
        return finish_job(run, rows, summary)


def _alike(collection: Collection, asked: Sequence[Asked]) -> list[int]:
    """Of each question the number of its group: all that share needed documents, also by way of others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    needs = [(place, len(asked) + gold) for place, each in enumerate(asked) for gold in collection.gold_numbers(each)]
    ends = np.array(needs, int).reshape(-1, 2).T
    size = len(asked) + len(collection.documents)
    graph = coo_array((np.ones(len(needs)), tuple(ends)), shape=(size, size))
    groups: list[int] = connected_components(graph, directed=False)[1][: len(asked)].tolist()
    return groups


PUBLICATIONS = (
    Publication(
        kind=GROUNDED,
        holds="table",
        question="What a base and a fine-tuned model answer from retrieved documents, from needed ones, and without.",
        papers=("2406.11201",),
    ),
)
