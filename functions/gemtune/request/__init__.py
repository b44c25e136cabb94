"""The request: its contract, its rules, and how a document becomes a spec."""
