"""The entry points: each decodes, calls one service, and encodes."""
