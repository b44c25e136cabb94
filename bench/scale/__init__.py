"""Benchmarks of large numbers and large files."""
