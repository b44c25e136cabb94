"""What runs in the steps' machines: `python -m trainer prepare|train|export`."""
