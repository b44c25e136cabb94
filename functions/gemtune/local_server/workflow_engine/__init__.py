"""Strict interpreter for the subset of Cloud Workflows that gemtune uses.

Syntax: https://cloud.google.com/workflows/docs/reference/syntax. Everything outside the subset is an error at load
time, with file and line. There is no journal: the host runs an unfinished execution again from `main`.
"""
