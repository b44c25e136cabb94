"""Machines: their types, the memory a training needs, model sizes, and cost."""
