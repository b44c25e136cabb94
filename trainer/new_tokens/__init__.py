"""Tokens that a request adds to a base model."""
