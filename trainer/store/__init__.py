"""Folders in the objects store that are whole or not there: manifests and checkpoints."""
