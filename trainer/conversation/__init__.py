"""Conversations: dataset files, messages, and chat templates."""
