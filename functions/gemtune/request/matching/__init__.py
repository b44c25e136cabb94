"""Matching: patterns and JSON Schemas of users, made safe to run."""
