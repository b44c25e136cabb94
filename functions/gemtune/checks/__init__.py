"""Checks of datasets without a job: the task and the report."""
