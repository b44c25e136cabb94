"""The three steps of a job, each readable from top to bottom."""
