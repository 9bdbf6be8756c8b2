"""A grid of experiments over seeds, from one YAML."""
