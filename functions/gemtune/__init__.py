"""The service: functions, command line, what the trainer shares. No torch."""

# That of pyproject.toml: an uploaded function is no installed package, and could not ask for it.
VERSION = "0.1.0"
