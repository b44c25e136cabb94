"""Benchmark on one GPU: the GPU's tests, then training beside its peers."""
