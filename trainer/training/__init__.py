"""Trainers (SFT, GRPO): batches, metrics, progress and callbacks."""
