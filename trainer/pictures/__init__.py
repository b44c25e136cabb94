"""Pictures of rows: where they are, how they are decoded and stored, and how many tokens stand for one."""
