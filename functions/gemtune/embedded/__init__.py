"""The ports of one workstation: SQLite, folders, files, child processes."""
