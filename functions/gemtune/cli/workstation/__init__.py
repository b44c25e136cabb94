"""Commands for the service of this workstation."""
