"""Publish a finished run on the Hub: a model, an adapter, a dataset or an analysis, with its card.

python recipes/publish.py --run runs/pretrain-nano-low --repo_id USER/NAME --dry_run
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.hub import PublishConfig, publish
from ftmech_hf.report.console import print_published


def main(argv: list[str] | None = None) -> None:
    """Parse, publish, say where."""
    with clean_exit():
        (config,) = parse_config(PublishConfig, argv=argv, description=__doc__)
        print_published(config.repo_id, publish(config))
        if config.collection is not None and not config.dry_run:
            print(f"in the collection {config.collection}")


if __name__ == "__main__":
    main()
