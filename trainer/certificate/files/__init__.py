"""Check of an export's files: every setting and every tensor."""
