"""Benchmarks of speed, memory and overhead, compared with other projects."""
