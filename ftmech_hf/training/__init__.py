"""How a model learned, and how it was changed."""
