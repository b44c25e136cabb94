"""The use cases: what happens to a job, one module each."""
