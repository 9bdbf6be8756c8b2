"""Intervals, metrics and linear classifiers; nothing here knows a model or a file of ours."""
