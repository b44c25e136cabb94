"""Whole folders in the objects store: manifests and checkpoints."""
