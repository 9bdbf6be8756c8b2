"""Let a model write stories to the instructions of test stories, and say how well it predicts those it has not seen.

Stories and rows are those that the model's run learned from, if nothing else is said.

python recipes/write_stories.py --model runs/stories-nano-base --number 4
"""

from __future__ import annotations

import sys

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.jobs.write_stories import WriteConfig, learned_from, write_stories
from ftmech_hf.report.console import make_console, step_bar
from ftmech_hf.runs import FinishedRun
from ftmech_hf.tasks import StoriesConfig


def main(argv: list[str] | None = None) -> None:
    """Parse, write, show."""
    with clean_exit():
        words = list(sys.argv[1:] if argv is None else argv)
        words += learned_from(words)
        config, task = parse_config(WriteConfig, StoriesConfig, argv=words, description=__doc__)
        with step_bar("write", "part") as progress:
            run = write_stories(config, task, progress=progress)
        made = FinishedRun(run.path)
        console = make_console()
        for row in made.table.itertuples(index=False):
            console.print(f"[{row.number}] {row.prompt}{row.text}\n", highlight=False)
        found = made.summary
        console.print(
            f"loss on {found['loss_rows']} test rows: {found['nats_per_token']:.4f} nats per token, "
            f"{found['nats_per_byte']:.4f} nats per byte"
        )
        console.print(f"run: {run.path} (hash {run.hash})", soft_wrap=True)


if __name__ == "__main__":
    main()
