"""Pairs of models whose truth is known, and how often the verdict of a diagnosis finds it."""
