"""Trainers (supervised, DPO, GRPO), their batches, metrics, progress, checkpoint callbacks and tracking."""
