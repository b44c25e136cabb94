"""Rendering of conversations: the text, and which turn wrote which part."""
