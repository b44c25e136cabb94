"""Datasets: finding their files, and reading rows from every kind of file."""
