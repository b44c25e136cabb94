"""Rows to train on: kinds, encoding, pairs, prompts, rewards, packing."""
