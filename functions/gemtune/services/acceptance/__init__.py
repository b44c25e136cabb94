"""Acceptance: a request is checked against the facts and becomes a job."""
