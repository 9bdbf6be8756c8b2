"""What did fine-tuning actually change inside this model? Train, tune, look inside, reverse, publish."""

import sys as _sys
from pathlib import Path as _Path

__version__ = "0.1.0"

# transformers' auto classes load compiled programs after `import ftmech_hf`. The command itself (`ftmech-hf`, or
# `python -m ftmech_hf`, while Python looks for it) does not need them, and lists recipes without importing torch.
if _Path(_sys.argv[0] if _sys.argv else "").stem not in ("-m", "ftmech-hf"):
    from ftmech_hf import models as models
