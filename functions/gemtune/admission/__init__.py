"""Admission of jobs to machines: slots, waits and pauses. Pure."""
