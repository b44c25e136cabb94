"""Datasets as things: uploaded, listed and deleted."""
