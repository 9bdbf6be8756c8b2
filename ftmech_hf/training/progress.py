"""Progress bars, on a screen and in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def make_bar(**options: Any) -> Any:
    """A progress bar; where it is not watched but written into a file, a line every ten seconds has to do."""
    return tqdm(mininterval=0.1 if sys.stderr.isatty() else 10.0, **options)
