"""Conversations as chat programs export them."""
