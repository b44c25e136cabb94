"""Use cases: everything that can happen to a job, one module each."""
