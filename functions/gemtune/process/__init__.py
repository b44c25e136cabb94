"""Child processes that outlive their parent, or that end with it."""
