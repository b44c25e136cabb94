"""Trainers that learn from judged answers: DPO and KTO."""
