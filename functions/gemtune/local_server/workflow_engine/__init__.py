"""A strict interpreter of the Cloud Workflows syntax that gemtune uses.

Syntax: https://cloud.google.com/workflows/docs/reference/syntax. Anything else is an error at load time, with file and
line. There is no journal: the host runs an unfinished execution again from `main`.
"""
