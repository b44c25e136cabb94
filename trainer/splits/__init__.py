"""Splits as prepare makes them: their rows, counts, warnings and report."""
