"""Checkpoints and loss histories, as the trainer leaves them in a bucket."""
