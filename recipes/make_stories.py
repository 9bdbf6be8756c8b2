"""Write stories as a dataset that plain ``load_dataset`` reads: procedural ones, or TinyStories from raw files.

python recipes/make_stories.py --config recipes/configs/nano/make_stories.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.jobs.make_stories import MakeStoriesConfig, make_stories
from ftmech_hf.report.console import make_console, step_bar


def main(argv: list[str] | None = None) -> None:
    """Parse, write, say where."""
    with clean_exit():
        (config,) = parse_config(MakeStoriesConfig, argv=argv, description=__doc__)
        with step_bar("stories", "story") as progress:
            run = make_stories(config, progress=progress)
        make_console().print(f"stories: {run.path} (hash {run.hash}); their card is README.md in it", soft_wrap=True)


if __name__ == "__main__":
    main()
