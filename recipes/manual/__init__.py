"""What `make docs` makes pages of: the READMEs and the docstrings as they are, no text of its own."""
