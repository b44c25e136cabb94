"""Datasets: which files one has, and what the rows in them look like."""
