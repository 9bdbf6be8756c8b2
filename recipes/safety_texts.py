"""What did safety tuning do to any model? Refusals, clusters, the change and the refusal's direction, with controls.

python recipes/safety_texts.py --base BASE --finetuned TUNED --safe SAFE_ROWS --unsafe UNSAFE_ROWS
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.report.console import print_job, step_bar
from ftmech_hf.studies.safety.texts import TextsConfig, measure_texts


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, say what came out."""
    with clean_exit():
        (config,) = parse_config(TextsConfig, argv=argv, description=__doc__)
        with step_bar("safety of texts", "models") as progress:
            run = measure_texts(config, progress=progress)
        print_job(run)


if __name__ == "__main__":
    main()
