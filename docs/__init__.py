"""Documentation: prose pages, and the program that writes reference/."""
