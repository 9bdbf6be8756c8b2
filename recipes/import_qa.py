"""Bring questions and documents into one format: BEIR folders, SQuAD, BioASQ, Qasper, FanOutQA, countries or parquet.

python recipes/import_qa.py --format squad --source dev-v2.0.json --split dev --output_dir runs/squad
"""

from __future__ import annotations

import math

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.jobs.import_qa import ImportConfig, import_questions
from ftmech_hf.report.console import make_console
from ftmech_hf.runs import FinishedRun


def main(argv: list[str] | None = None) -> None:
    """Parse, read, write, say what is there."""
    with clean_exit():
        (config,) = parse_config(ImportConfig, argv=argv, description=__doc__)
        run = FinishedRun(import_questions(config).path)
        console = make_console()
        found = run.summary
        facts = found["facts_of_a_question"]
        mean = sum(int(each) * number for each, number in facts.items()) / max(1, sum(facts.values()))
        unknown = found.get("unknown", 0)  # what was imported before has no such number
        lost = f", {unknown} whose answer is not known" if unknown else ""
        console.print(
            f"{found['questions']} questions ({mean:.1f} facts in an answer, {found['unanswerable']} without one"
            f"{lost}), {found['documents']} documents",
            soft_wrap=True,
        )
        for row in run.table.to_dict("records"):
            told = "" if math.isnan(row["completeness"]) else f"; {row['completeness']:.0%} of the facts stand in them"
            named = f"{row['retriever']} @{row['top_k']}" if row["top_k"] else "all gold documents"
            console.print(
                f"{named}: {row['recall']:.0%} of the gold documents, "
                f"all of them for {row['all_gold']:.0%} of {row['questions']} questions{told}",
                soft_wrap=True,
            )
        console.print(f"questions: {run.path}", soft_wrap=True)


if __name__ == "__main__":
    main()
