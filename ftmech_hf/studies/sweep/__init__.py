"""A grid of experiments over seeds, from one YAML file (Jain et al., Tables 5 to 8 and App. E)."""
