"""A page to type into: what a base and its fine-tuned model say, side by side, and what edits between them change.

python recipes/explore.py --demo
python recipes/explore.py --base BASE --finetuned TUNED --reversed BACK
python recipes/explore.py --run runs/diagnosis
"""

from __future__ import annotations

import os
from pathlib import Path

from ftmech_hf.config import clean_exit, leave_garbage, parse_config

with leave_garbage():  # a page should answer within five seconds
    from ftmech_hf.explorer.page import need_gradio, serve
    from ftmech_hf.explorer.pairs import ExploreConfig, find_pair, open_explorer
    from ftmech_hf.explorer.picture import need_chromium, take_picture
    from ftmech_hf.explorer.space import write_space
    from ftmech_hf.jobs.study import StudyPlan

DEMO = Path(__file__).parent / "configs" / "nano" / "reproduce.yaml"


def demo_plan() -> StudyPlan:
    """The nano reproduction of its first seed."""
    from ftmech_hf.studies.pcfg.study import STUDY  # a third of a second, of the five until the page answers

    return STUDY.read_plan(["--config", str(DEMO), "--seeds", "0"])


def main(argv: list[str] | None = None) -> None:
    """Parse, load, serve until stopped; or write a Space, or a picture of the page."""
    with clean_exit():
        (config,) = parse_config(ExploreConfig, argv=argv, description=__doc__)
        if config.picture is not None:
            need_chromium()
        if config.space is None:
            need_gradio()
        pair = find_pair(config, demo_plan)
        if config.space is not None:
            print(f"space: {write_space(Path(config.space), pair, config)}")
            return
        with leave_garbage(for_good=True):
            explorer = open_explorer(pair, config)
            page = serve(explorer, host=config.host, port=config.port)
        if config.picture is not None:
            take_picture(f"http://{config.host}:{config.port}", Path(config.picture))
            print(f"picture: {config.picture}", flush=True)
            os._exit(0)  # the page's threads do not end by themselves
        print(f"{explorer.title}: http://{config.host}:{config.port} (stop with Ctrl-C)", flush=True)
        page.block_thread()


if __name__ == "__main__":
    main()
