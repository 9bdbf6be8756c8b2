"""Which questions belong together, so that no word stands on both sides of a cut."""

OPEN_ANSWERS = 8
"""Below so many rows per answer, answers are taken to be words of their own, and not classes."""
