"""Requests of the command line: from files, and from options."""
