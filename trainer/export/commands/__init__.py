"""Commands that run an exported model, as texts of its README."""
