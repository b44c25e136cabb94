"""The service: functions, command line, and code shared with the trainer.

It never imports torch.
"""

# Equal to the version in pyproject.toml: Cloud Functions gets source files, not a package with metadata to ask.
VERSION = "0.1.0"
