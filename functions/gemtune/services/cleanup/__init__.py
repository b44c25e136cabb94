"""Cleanup: removal of what ended jobs and interrupted requests leave behind."""
