"""Deployment by `make deploy` and its sisters, with Python alone."""
