"""gemtune: the shared package of the functions, the command line and the trainer. It never imports torch."""

# That of pyproject.toml: an uploaded function is no installed package, and could not ask for it.
VERSION = "0.1.0"
