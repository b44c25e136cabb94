"""Implementations of attention: which one computes a layer, and why."""
