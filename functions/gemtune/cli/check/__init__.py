"""Check of rows from the command line: request, process and page."""
