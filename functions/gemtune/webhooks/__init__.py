"""Webhooks: where one may go, how it is signed, and the guarded POST."""
