"""What did fine-tuning actually change inside this model? Train, tune, look inside, reverse, publish."""

__version__ = "0.1.0"
