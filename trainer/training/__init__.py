"""Trainers (SFT, DPO, GRPO): batches, metrics, progress and callbacks."""
