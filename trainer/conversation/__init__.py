"""Chat templates: loading them, and rendering conversations within limits."""
