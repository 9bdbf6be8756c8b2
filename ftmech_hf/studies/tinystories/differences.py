"""What Jain et al. say of stories (arXiv 2311.12786, Sect. 5.2, App. F, and code), beside the runs of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.jobs.fit_judge import EXACT
from ftmech_hf.models.presets import PRESETS
from ftmech_hf.report.differences import NOT_SAID, Difference, OneOf
from ftmech_hf.report.paper_settings import (
    PaperTraining,
    answer_weight_rows,
    betas_rows,
    dropout_rows,
    model_size,
    precision_rows,
    reverse_rate_rows,
    seed_rows,
    training_rows,
    values,
)
from ftmech_hf.tasks.stories import StoriesConfig

_SMALL = "smaller models and stories, which learn in fewer steps"
_WHY = {
    "optimizer": "learns in fewer steps", "lr": _SMALL, "warmup": "the paper gives no number", "end": _SMALL,
    "steps": _SMALL, "batch_size": _SMALL, "weight_decay": "that of the procedural task",
}  # fmt: skip
PRETRAINING = PaperTraining(
    part="pretraining", where="App. F", elsewhere={"weight_decay": "its code", "clipping": "its code"},
    optimizer="AdamW", lr=1e-3, end=0.0, steps=30_000, batch_size=128, weight_decay=0.1, clipping=1.0, why=_WHY,
)  # fmt: skip
FINETUNING = PaperTraining(
    part="fine-tuning", where="its code", optimizer="AdamW", lr=OneOf([1e-4, 1e-5]), warmup=0.0, end=1.0,
    steps=4_000, batch_size=128, weight_decay=0.1, clipping=1.0, why=_WHY,
)  # fmt: skip
REVERSING = PaperTraining(
    part="reversing", where="its code; Table 1", optimizer="AdamW", lr=1e-5, warmup=0.0, end=1.0,
    steps=OneOf([3_000, 4_000]), batch_size=128, weight_decay=0.1, clipping=1.0, why=_WHY,
)  # fmt: skip


def stories_rows(runs: Mapping[str, Sequence[Mapping[str, Any]]], seeds: Sequence[int]) -> list[Difference]:
    """All that the paper says of its stories, and what runs have; low-rank updates are ours alone.

    Args:
        runs: kind of a run -> what each such run is called with.
        seeds: of the study.
    """
    pretrained, tuned, back = (
        [each["train"] for each in runs.get(kind, []) if "adapter" not in each or each["adapter"].adapter == "none"]
        for kind in ("pretrain", "finetune", "reverse_finetune")
    )
    return [
        *_data_rows([each["task"] for each in runs["pretrain"]]),
        Difference(part="model", what="model", paper=model_size(PRESETS["paper-stories"]), where="App. F",
                   here=values([each["config"].shape for each in runs["pretrain"]], model_size), why=_SMALL),
        *dropout_rows([each["config"] for each in runs["pretrain"]], paper=0.0, where="App. F"),
        *training_rows(PRETRAINING, pretrained),
        *answer_weight_rows([each["objective"] for each in runs["pretrain"]], of="a word that shows a feature",
                            where="App. F"),
        *training_rows(FINETUNING, tuned),
        *training_rows(REVERSING, back),
        *reverse_rate_rows(tuned, back, paper="not always below fine-tuning's", where="its code",
                            why="as in the paper's other tasks (App. D)"),
        *betas_rows([*pretrained, *tuned, *back], paper="0.9 and 0.95", where="its code"),
        *precision_rows([*pretrained, *tuned, *back], paper="float16", where="its code"),
        *_measuring_rows(runs),
        *seed_rows(seeds),
    ]  # fmt: skip


def _data_rows(tasks: Sequence[StoriesConfig]) -> list[Difference]:
    real = "TinyStories-Instruct"
    return [
        Difference(part="data", what="stories", paper=real, where="App. F",
                   here=values(tasks, lambda task: real if task.files else "made by rule, their features true by "
                                                                          "construction"),
                   why="what a story has is known and not judged"),
        Difference(part="data", what="words of the tokenizer", paper=8192, where="App. F",
                   here=values(tasks, lambda task: task.vocab_size), why="fewer words in the stories"),
        Difference(part="data", what="tokens of a row", paper=1024, where="App. F",
                   here=values(tasks, lambda task: task.row_tokens), why="shorter stories"),
        Difference(part="data", what="how stories become rows",
                   paper="one long text, cut into rows; `<bos>` before a story, nothing after it", where="its code",
                   here="whole stories side by side and the beginning of one more, which do not see each other; "
                   "`<bos>` before a story, `<eos>` after it",
                   why="a story is read from its beginning, nothing of another beside it, and a model learns to end"),
        Difference(part="data", what="lines of an instruction", paper="features, sentence, summary, words",
                   where="App. F", here=values(tasks, lambda task: ", ".join(sorted(task.headers))),
                   why="the line that is studied"),
        Difference(part="data", what="stories that pretraining, deletion and reversing have in common", paper="any",
                   where="its code", why="what comes back was not read before",
                   here=values(tasks, lambda task: "none" if task.own_records or not task.files else "any")),
    ]  # fmt: skip


def _measuring_rows(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Difference]:
    scores = [each["config"] for each in runs.get("stories_score", [])]
    probes = [each["config"] for each in runs.get("stories_probe", [])]
    rows = [
        Difference(part="measuring", what="stories per number", paper=16, where="Table 1",
                   here=values(scores, lambda config: config.generations), why="narrower intervals"),
        Difference(part="measuring", what="judge", paper="a fine-tuned GPT-3.5", where="App. F",
                   here=values(scores, lambda config: "exact, by rule" if config.judge == EXACT else "a fitted "
                                                                                             "classifier"),
                   why="runs on one machine, and says what it gets right"),
        Difference(part="measuring", what="tokens of a story at most", paper=350, where="its code",
                   here=values(scores, lambda config: config.max_new_tokens), why="shorter stories"),
        Difference(part="measuring", what="temperature of writing", paper=1.0, where="its code",
                   here=values(scores, lambda config: float(config.temperature)), why=""),
        Difference(part="measuring", what="instructions that do not name the feature", paper=NOT_SAID, where="",
                   here="as many, beside those that do", why="a feature that comes unrequested is a habit"),
    ]  # fmt: skip
    if probes:
        rows.append(
            Difference(part="measuring", what="probes", paper="2,000 steps of AdamW, without a bias", where="its code",
                       here="logistic regression to convergence, with a bias, on stories of which half have the "
                       "feature", why="no number of steps decides what is read")
        )  # fmt: skip
    if "stories_prune" in runs:
        rows.append(
            Difference(part="measuring", what="pruning", paper="none", where="Sect. 5.2",
                       here="at most 15 rows of weight matrices", why="to compare with the other tasks")
        )  # fmt: skip
    return rows
