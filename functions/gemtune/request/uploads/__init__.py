"""Requests to upload."""
