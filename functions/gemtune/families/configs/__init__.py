"""Values of a config.json that transformers does not read or compute."""
