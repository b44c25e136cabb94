"""The process of `gemtune up`: server, message delivery, uploads, workflow."""
