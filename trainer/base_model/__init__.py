"""The base model: location, download, files, precision, vision parts."""
