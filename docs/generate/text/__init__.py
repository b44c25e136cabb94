"""Text of pages: Markdown, and JSON schemas in words."""
