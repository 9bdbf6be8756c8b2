"""A page to type into: what a base, what it was fine-tuned into, and edits between them answer."""
