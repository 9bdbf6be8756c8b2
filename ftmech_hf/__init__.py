"""What did fine-tuning actually change inside this model? Train, tune, look inside, reverse, publish."""

import ftmech_hf.models  # transformers' auto classes load compiled programs after `import ftmech_hf`

__version__ = "0.1.0"
