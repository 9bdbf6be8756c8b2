"""What is trained: stock architectures, compiled programs, and how models are loaded."""

from ftmech_hf.config import quick_imports

with quick_imports():  # by far the largest part of what every command imports
    import transformers.modeling_utils  # noqa: F401
