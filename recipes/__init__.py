"""Thin scripts: parse, build, run, save."""
