"""Calls of tools in texts: in tags, as Hermes and Qwen write them."""
