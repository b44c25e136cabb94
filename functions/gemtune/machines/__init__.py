"""Machines: types, the memory that a job needs, model sizes, and cost."""
