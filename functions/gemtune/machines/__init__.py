"""Machines: their types, the memory a job needs, model sizes, and cost."""
