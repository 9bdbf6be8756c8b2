"""What did fine-tuning actually change inside this model? Train, tune, look inside, reverse, publish."""

# transformers' auto classes load compiled programs after `import ftmech_hf`
from ftmech_hf import models as models

__version__ = "0.1.0"
