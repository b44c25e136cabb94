"""How a model is loaded, wrapped and saved, by provider."""
