"""Datasets and requests to try, and the programs that the demo runs."""
