"""Requests: the contract, its rules, and how a document becomes a spec."""
