"""The process of `gemtune up`: server, delivery, uploads, and the workflow with its engine."""
