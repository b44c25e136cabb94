"""Processes of this machine: children that outlive their parent, and children that end with it."""
