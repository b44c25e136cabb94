"""The server of `gemtune up`: functions, messages, uploads, workflow."""
