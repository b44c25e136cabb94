"""The ports on one workstation: SQLite, folders, files and child processes."""
