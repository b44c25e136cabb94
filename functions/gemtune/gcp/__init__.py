"""The ports on Google Cloud. Each module imports its client and nothing else, so a function loads what it uses."""
