"""Output of the steps of a job."""
