"""Both models' answers to the same questions beside each other: where did fine-tuning change them, and by how much?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ftmech_hf.statistics.clusters import paired_lead

SCORES = ("right", "judged", "f1", "rouge_l", "completeness", "abstains")


def compare_answers(table: pd.DataFrame) -> dict[str, Any]:
    """Of each context the means of both models, and the fine-tuned less the base on the same questions, with intervals.

    Questions about one document are alike, and intervals are as much wider (:func:`paired_lead`). Retrieved
    questions whose gold documents are known are compared once more apart: those of which both models were shown all of
    them, and the others.
    Of ``oracle`` the others are left out.
    """
    found: dict[str, Any] = {}
    parts = {context: rows for context, rows in table.groupby("context", sort=False)}
    read = {name: rows.groupby("id")["all_gold"].transform("all") for name, rows in parts.items()}
    if "oracle" in parts:
        parts["oracle"] = parts["oracle"][read["oracle"]]
    if "retrieved" in parts:
        retrieved = parts["retrieved"][parts["retrieved"]["has_gold"]]
        found_all = read["retrieved"][retrieved.index]
        parts |= {"retrieved, all gold": retrieved[found_all], "retrieved, gold missing": retrieved[~found_all]}
    for name, rows in ((name, rows) for name, rows in parts.items() if len(rows)):
        scores = [each for each in SCORES if each in rows and rows[each].notna().any()]
        means = rows.groupby("model")[scores].mean()
        both = {model: of_model.set_index("id") for model, of_model in rows.groupby("model")}
        base, tuned = both["base"], both["finetuned"].loc[both["base"].index]
        found[str(name)] = {
            "questions": len(base),
            "base": means.loc["base"].to_dict(),
            "finetuned": means.loc["finetuned"].to_dict(),
            "difference": {each: _difference(tuned[each], base[each], base["alike"]) for each in scores},
        }
    return found


def _difference(tuned: pd.Series, base: pd.Series, alike: pd.Series) -> dict[str, float]:
    both = (tuned - base).dropna().index
    return paired_lead(tuned[both].to_numpy(float), base[both].to_numpy(float), alike[both].to_numpy())._asdict()


def describe_harm(summary: Mapping[str, Any]) -> str:
    """In a sentence where fine-tuning changed answers from documents, as far as intervals allow it."""

    def change(context: str) -> float | None:
        """In points, where the interval leaves zero out."""
        found = summary.get(context, {}).get("difference", {}).get("right")
        return None if not found or found["low"] <= 0 <= found["high"] else 100 * found["value"]

    retrieved, oracle = change("retrieved"), change("oracle")
    if "retrieved" not in summary:
        return "nothing was retrieved"
    if retrieved is None:
        return "with what is retrieved the fine-tuned model answers neither better nor worse, as far as can be told"
    told = f"with what is retrieved the fine-tuned model answers {_in_points(retrieved)}"
    if "oracle" not in summary:
        return told
    return f"{told}, with the documents that are needed {'not' if oracle is None else _in_points(oracle)}"


def _in_points(change: float) -> str:
    return f"{abs(change):.0f} points {'worse' if change < 0 else 'better'}"
