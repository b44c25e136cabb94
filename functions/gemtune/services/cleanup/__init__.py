"""Cleanup: removal of what ended jobs and abandoned requests leave behind."""
