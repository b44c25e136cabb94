"""Budgets of owners: what their jobs take in a month, and the most allowed."""
