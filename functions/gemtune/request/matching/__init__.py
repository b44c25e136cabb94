"""Matching: patterns and JSON Schemas that users write, made safe to run."""
