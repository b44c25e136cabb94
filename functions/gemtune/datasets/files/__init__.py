"""Files of a dataset: their kinds, splits, and columns."""
