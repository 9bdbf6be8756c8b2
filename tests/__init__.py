"""Tests run on the CPU, also where there is a GPU.

They compare tensors of their own with a model's, and numbers bit for bit, which a GPU's kernels do not promise. Those
about a GPU are marked ``cuda``; ``make test-cuda`` runs them, and them alone.
"""

import os

TEST_CUDA = os.environ.get("TEST_CUDA") == "1"
if not TEST_CUDA:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks, and for child processes
