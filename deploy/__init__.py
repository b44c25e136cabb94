"""Deployment: `make images|plan|deploy|destroy|smoke`, by Python alone."""
