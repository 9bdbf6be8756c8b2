"""What is trained: stock architectures, compiled programs, and how models are loaded."""

from ftmech_hf.config import leave_garbage

with leave_garbage():  # by far the largest part of what every command imports
    import transformers.modeling_utils  # noqa: F401
