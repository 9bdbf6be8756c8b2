"""A real model, tuned so that the truth is known, and diagnosed: SmolLM2-135M-Instruct out of a package."""
