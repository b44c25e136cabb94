"""Benchmark of what a tiny job spends outside loading and training."""
