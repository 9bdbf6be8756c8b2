"""The tables of README.md, each made of a run's files; recipes/update_readme.py puts them between their marks."""
