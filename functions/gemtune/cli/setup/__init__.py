"""Commands that set up the command line: profiles and completion."""
