"""Errors about a call of the HTTP API, whatever it is about."""

from __future__ import annotations

from gemtune.errors.base import GemtuneError


class BadPageToken(GemtuneError):
    """Raised for a page token that this service did not give out."""

    code = "bad_page_token"

    def __init__(self, parameter: str = "page_token"):
        super().__init__(f"this {parameter} was not given out by this service", hint=f"start again without {parameter}")


class BadIdempotencyKey(GemtuneError):
    """Raised for a text that cannot be an idempotency key."""

    code = "bad_idempotency_key"

    def __init__(self) -> None:
        super().__init__(
            "this cannot be an idempotency key", hint="use printable characters, at most 1024 bytes, and no token"
        )


class NotFromHere(GemtuneError):
    """Raised for a request from a web page, or under a foreign host name."""

    code = "not_from_here"

    def __init__(self) -> None:
        super().__init__(
            "this service answers programs of its own machine only",
            hint="call http://127.0.0.1, and not from a web page of another origin",
        )


class BodyTooLarge(GemtuneError):
    """Raised for a request body over the limit."""

    code = "body_too_large"

    def __init__(self, limit: int, *, is_file: bool):
        """Describe the limit in bytes.

        is_file: whether the body is a file, or a part of one.
        """
        hint = "put rows into a dataset, not into the request"
        if is_file:
            hint = "send a larger file with `gemtune data upload`, or in parts: POST /datasets says which"
        super().__init__(f"a request has at most {limit} bytes", hint=hint)
