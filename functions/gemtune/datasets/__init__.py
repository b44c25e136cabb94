"""Datasets: their files, and the columns of their rows."""
