"""The program of a job's steps: `python -m trainer prepare|train|export`."""
