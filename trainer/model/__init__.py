"""The model while it trains: loss head, attention, gradient checkpointing."""
