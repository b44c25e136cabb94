"""Check of a dataset without a job, by the code of the prepare step."""
