"""Environment variables: a table of all that gemtune reads."""
