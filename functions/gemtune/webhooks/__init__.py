"""Webhooks: allowed destinations, signatures, and the guarded POST."""
