"""Pictures of rows: finding, decoding and storing them, and their tokens."""
