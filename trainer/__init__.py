"""The program of the steps: `python -m trainer prepare|train|export`."""
