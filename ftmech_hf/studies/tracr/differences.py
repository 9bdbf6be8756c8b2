"""What Jain et al. say of compiled programs (arXiv 2311.12786, App. B.1 and C.1), beside the runs of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.report.differences import NOT_SAID, Difference, OneOf
from ftmech_hf.report.paper_settings import PaperTraining, precision_rows, seed_rows, training_rows, values
from ftmech_hf.tasks.letters import CounterConfig, LettersConfig
from ftmech_hf.training.optim import SGD_MOMENTUM

RATES = OneOf([1e-1, 1e-2, 1e-3, 1e-4])
CORRELATIONS = (0.0, 0.2, 0.5, 0.6, 0.8, 0.9, 1.0)
_MINUTES = "trains in minutes"
_WHY = {
    "steps": _MINUTES, "batch_size": _MINUTES, "clipping": "large rates diverge without",
    "weight_decay": "weights that are compiled should not shrink by themselves",
    "warmup": "under a warm-up a revival is over while the rate is near zero",
    "end": "steps of a constant rate compare between models",
}  # fmt: skip
FINETUNING = PaperTraining(
    part="fine-tuning", where="App. C.1", optimizer="SGD with momentum", lr=RATES, warmup=0.2, end=0.01,
    steps=10_000, batch_size=96, why=_WHY,
)  # fmt: skip
REVERSING = PaperTraining(
    part="reversing", where="App. C.1, D", optimizer="SGD with momentum", lr=RATES, warmup=0.2, end=0.01,
    steps=10_000, batch_size=96, why=_WHY,
)  # fmt: skip


def tracr_rows(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], correlations: Sequence[float], seeds: Sequence[int]
) -> list[Difference]:
    """All that the paper says of its compiled programs, and what runs have.

    Args:
        runs: kind of a run -> what each such run is called with.
        correlations: C_Tr of the study.
        seeds: of the study.
    """
    tuned, back = ([each["train"] for each in runs.get(kind, [])] for kind in ("finetune", "reverse_finetune"))
    starts = [each["config"] for each in runs["compile"]]
    return [
        *_data_rows([each["task"] for each in runs["compile"]], correlations),
        Difference(part="model", what="noise on compiled weights", paper="N(0, 0.001)", where="App. C.1",
                   here=values(starts, lambda config: f"N(0, {config.noise:g}), a standard deviation"),
                   why="with the paper's, as a deviation or a variance, the programs lose accuracy"),
        *training_rows(FINETUNING, tuned),
        Difference(part="fine-tuning", what="momentum", paper=NOT_SAID, where="App. C.1", here=SGD_MOMENTUM,
                   why="the usual one"),
        *training_rows(REVERSING, back),
        *precision_rows(tuned),
        *seed_rows(seeds),
    ]  # fmt: skip


def _data_rows(tasks: Sequence[LettersConfig], correlations: Sequence[float]) -> list[Difference]:
    rows = []
    if counters := [task for task in tasks if isinstance(task, CounterConfig)]:
        rows += [
            Difference(part="data", what="letters of a counter's text", paper=45, where="App. B.1, figures",
                       here=values(counters, lambda task: task.length), why=_MINUTES),
            Difference(part="data", what="offset of the counter's correlation", paper=NOT_SAID, where="App. B.1",
                       here=values(counters, lambda task: task.correlation_offset), why="that of the larger task"),
        ]  # fmt: skip
    if others := [task for task in tasks if not isinstance(task, CounterConfig)]:
        asked = values(others, lambda task: f"the letter of rank {task.correlated_operand}, "
                                            f"{task.correlation_offset} letters after")  # fmt: skip
        rows += [
            Difference(part="data", what="the max-identifier's second answer",
                       paper="the letter of rank 7, 3 letters after", where="Fig. 51; the text has an example of 1",
                       here=asked, why=""),
            Difference(part="data", what="texts of the max-identifier", paper="padded", where="App. B.1",
                       here="not padded", why="padding changes no answer"),
        ]  # fmt: skip
    rows.append(Difference(part="data", what="correlations C_Tr", paper=OneOf(CORRELATIONS), where="Table 3",
                           here=set(correlations), why="other cells than the paper's"))  # fmt: skip
    if missing := [each for each in CORRELATIONS if each not in correlations]:
        rows.append(Difference(part="data", what="cells of Table 3 that are left out", paper="none", where="Table 3",
                               here="C_Tr " + ", ".join(f"{each:g}" for each in missing), why=_MINUTES))  # fmt: skip
    return rows
