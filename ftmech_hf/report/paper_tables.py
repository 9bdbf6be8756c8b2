"""The paper's tables of fine-tuning beside ours: its value, our mean and interval, and whether the pattern agrees.

Tables 5 to 8 of Jain et al. (arXiv 2311.12786): accuracy on the pretraining operand (``o_pt``) and on the fine-tuning
operand (``o_ft``), on texts without (``cte0``) and with the correlation (``cte1``), after a tenth of the fine-tuning
steps (``1k``) and after all (``10k``), in per cent. A small model cannot have the paper's values; what can agree is
which cells are high and which collapse, so a column is judged by the rank correlation over its cells. Table 3 has the
same columns, after all steps, for compiled programs. Table 1 is the share of stories with a twist, of 16 per cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PAPER_TABLES = {
    # operator, pretraining steps -> file
    ("count", "200K"): "table5_counter_200k.csv",
    ("count", "50K"): "table6_counter_50k.csv",
    ("index", "200K"): "table7_index_200k.csv",
    ("index", "50K"): "table8_index_50k.csv",
}
PRIORS = {0.999: "low", 0.9: "medium", 0.5: "high"}
RATES = {1e-4: "large", 1e-5: "medium", 1e-6: "small"}
COLUMNS = [
    f"{operand}_{texts}_{steps}"
    for operand in ("o_pt", "o_ft")
    for texts in ("cte0", "cte1")
    for steps in ("1k", "10k")
]
STORIES_TABLE = "table1_tinystories_revival.csv"
STORIES_STEPS = (0, 30, 300, 3000)
STORIES_RATES = {"large": "η_M", "small": "η_S"}
TRACR_TABLE = "table3_tracr_finetuning.csv"
TRACR_COLUMNS = ["o_pt_cte1", "o_ft_cte1", "o_pt_cte0", "o_ft_cte0"]
HIGH, COLLAPSED = 200 / 3, 100 / 3
"""Per cent: thirds, chosen before the runs."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What the axes of a sweep are called, and the steps of the paper's columns.

    Priors must be labelled low, medium and high, rates large, medium and small. With an axis of pretraining steps,
    labelled 50K and 200K, each of the paper's tables has its own cells; without one, ours stand beside both.
    """

    operator: str = "finetune.operators"
    prior: str = "prior"
    rate: str = "finetune.lr"
    correlation: str = "finetune.correlation"
    pretraining: str = ""
    early_step: int = 20
    last_step: int = 200


def _read_csv(name: str) -> pd.DataFrame:
    with resources.as_file(resources.files("ftmech_hf.report").joinpath("paper_tables", name)) as path:
        return pd.read_csv(path)


def read_paper_table(operator: str, pretraining: str) -> pd.DataFrame:
    """One of the paper's tables, long: prior, rate, correlation, column, paper (per cent)."""
    table = _read_csv(PAPER_TABLES[operator, pretraining])
    table["prior"] = table["prior_a"].map(PRIORS)
    table["rate"] = table["learning_rate"].map(RATES)
    table["correlation"] = table["train_correlation"].astype(float)
    return table.melt(["prior", "rate", "correlation"], COLUMNS, "column", "paper")


def read_tracr_table() -> pd.DataFrame:
    """The paper's Table 3, long: program, lr, correlation, column, paper (per cent)."""
    table = _read_csv(TRACR_TABLE).rename(columns={"learning_rate": "lr", "train_correlation": "correlation"})
    parts = []
    for program, prefix in (("counter", "counter"), ("max_identifier", "max")):
        columns = {f"{prefix}_{column[5:]}_{column[:4]}": column for column in TRACR_COLUMNS}
        part = table[["lr", "correlation", *columns]].rename(columns=columns)
        parts.append(part.melt(["lr", "correlation"], TRACR_COLUMNS, "column", "paper").assign(program=program))
    return pd.concat(parts, ignore_index=True)[["program", "lr", "correlation", "column", "paper"]]


def read_stories_table() -> pd.DataFrame:
    """The paper's Table 1, long: model (``F (large)``, ``control``), paper_step, paper (per cent of 16 stories)."""
    table = _read_csv(STORIES_TABLE).rename(columns={f"it{step}": step for step in STORIES_STEPS})
    for ours, theirs in STORIES_RATES.items():
        table["model"] = table["model"].str.replace(theirs, ours)
    table["model"] = table["model"].replace("Not in PT", "control")
    return table.melt(["model"], list(STORIES_STEPS), "paper_step", "paper").astype({"paper_step": int})


def read_ldifs_table() -> pd.DataFrame:
    """Means over ten fine-tunings of CLIP (Mukhoti et al., arXiv 2308.13320): method, a_lp (%), delta_lp (points).

    ``a_lp`` is the accuracy of linear probes on the tuned task, ``delta_lp`` their change on the others. The paper's
    own tables could not be read; these are printed in Table 1 of Proxy-FDA (ICML 2025), known by notes on it.
    """
    return _read_csv("ldifs_average.csv")


def compare_with_tracr_table(ours: pd.DataFrame) -> pd.DataFrame:
    """Every cell of Table 3 that a study has, beside its value.

    Args:
        ours: program, lr, correlation, column, ours, low, high (per cent).

    Returns:
        those columns with ``paper``, ``difference`` (ours less the paper's, points) and ``agrees``: whether both are in
        the same third of the scale.
    """
    cells = read_tracr_table().merge(ours, on=["program", "lr", "correlation", "column"])
    cells["difference"] = cells["ours"] - cells["paper"]
    cells["agrees"] = _third(cells["paper"]) == _third(cells["ours"])
    return cells


def compare_with_paper(summary: pd.DataFrame, config: CompareConfig) -> pd.DataFrame:
    """Every cell of the paper's tables that a sweep has, beside our mean and interval over seeds.

    Args:
        summary: of a sweep, see :func:`ftmech_hf.studies.sweep.results.summarise`; accuracies as shares.
        config: the names of its axes.

    Returns:
        operator, pretraining, prior, rate, correlation, column, paper, ours, low, high, floor (per cent), and
        ``agrees``: whether both are in the same third of the scale. The paper's floors are not known, so that its
        accuracies and ours are compared, and not the leads over them.
    """
    steps = {config.early_step: "1k", config.last_step: "10k"}
    parts = []
    for operator, pretraining in PAPER_TABLES:
        names = {
            (f"{operator}_{operand}_{texts}", step): f"{symbol}_{texts}_{steps[step]}"
            for operand, symbol in (("a", "o_pt"), ("b", "o_ft"))
            for texts in ("cte0", "cte1")
            for step in steps
        }
        ours = summary[(summary["stage"] == "finetune") & (summary[config.operator] == operator)].copy()
        if config.pretraining:
            ours = ours[ours[config.pretraining] == pretraining]
        ours["column"] = [names.get(pair) for pair in zip(ours["metric"], ours["step"], strict=True)]
        ours = ours[ours["column"].notna()].rename(columns={config.prior: "prior", config.rate: "rate", "mean": "ours"})
        ours["correlation"] = ours[config.correlation].astype(float)
        ours[["ours", "low", "high"]] *= 100
        if "floor" not in ours:
            ours["floor"] = float("nan")
        ours["floor"] *= 100
        cells = ours[["prior", "rate", "correlation", "column", "ours", "low", "high", "floor"]]
        merged = read_paper_table(operator, pretraining).merge(cells, on=["prior", "rate", "correlation", "column"])
        parts.append(merged.assign(operator=operator, pretraining=pretraining))
    table = pd.concat(parts, ignore_index=True)
    table["agrees"] = _third(table["paper"]) == _third(table["ours"])
    first = ["operator", "pretraining", "prior", "rate", "correlation", "column"]
    return table[[*first, *(name for name in table.columns if name not in first)]]


def _third(values: pd.Series) -> pd.Series:
    return (values >= HIGH).astype(int) - (values <= COLLAPSED).astype(int)


def third_bar(paper: float) -> str:
    """What a value must meet to be in the same third as the paper's; empty in the middle, where there is no bar."""
    return f">= {HIGH:.1f}" if paper >= HIGH else f"<= {COLLAPSED:.1f}" if paper <= COLLAPSED else ""


def agreement(cells: pd.DataFrame, *, tables: Sequence[str] = ("operator", "pretraining", "column")) -> pd.DataFrame:
    """Per operator, table and column: how far our pattern over cells is the paper's.

    This describes these cells and has no interval: cells share models, seeds and test sets, so that they are no sample
    of independent ones.

    Args:
        cells: of :func:`compare_with_paper` or :func:`compare_with_tracr_table`.
        tables: what to keep apart.

    Returns:
        ``cells`` (their number), ``rank_correlation`` (Spearman), ``same_third``, the share of cells in the same third
        of the scale, and ``mean_difference`` (ours less the paper's, points).
    """
    rows = []
    for key, group in cells.groupby(list(tables), sort=False):
        found: dict[str, Any] = dict(zip(tables, key, strict=True))
        found["cells"] = len(group)
        found["rank_correlation"] = _spearman(group["paper"].to_numpy(), group["ours"].to_numpy())
        found["same_third"] = float(group["agrees"].mean())
        found["mean_difference"] = float((group["ours"] - group["paper"]).mean())
        rows.append(found)
    return pd.DataFrame(rows)


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; not a number if one side is constant."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return float("nan")
    from scipy import stats

    return float(stats.spearmanr(first, second).statistic)
