"""Formats of rows: one file per format, and the table of them."""
