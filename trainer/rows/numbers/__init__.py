"""Numbers in texts: of a row's answer, and of a completion."""
