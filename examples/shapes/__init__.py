"""A vision dataset: coloured shapes and their descriptions."""
