"""Speed of reading, checking and tokenizing rows."""
