"""Page tokens, which continue a list of jobs after a page's last job.

A token is the position of that job as JSON in base64url.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from gemtune.errors import BadPageToken
from gemtune.untrusted import Unreadable, read_json

# A time and an id of 63 characters need 146 characters; the rest leaves room for ids of later versions.
MAX_LENGTH = 256
PATTERN = r"^[A-Za-z0-9_-]+={0,2}$"


@dataclass(frozen=True, slots=True)
class PagePosition:
    """Position of a job in the list, which is sorted by these two fields."""

    created_at: datetime
    job_id: str


def encode_page_token(place: PagePosition) -> str:
    """Encode a position."""
    return base64.urlsafe_b64encode(json.dumps([place.created_at.isoformat(), place.job_id]).encode()).decode()


def decode_page_token(token: str) -> PagePosition:
    """Decode a token that a client sent.

    Raises BadPageToken for anything that is not one.
    """
    try:
        if len(token) > MAX_LENGTH:
            raise ValueError
        created_at, job_id = read_json(base64.urlsafe_b64decode(token.encode("ascii")))
        time = datetime.fromisoformat(created_at)
        aware = time.utcoffset() is not None
        place = PagePosition(time.astimezone(UTC), job_id)  # fails in the first and the last hours of the calendar
    except (ValueError, TypeError, binascii.Error, Unreadable, OverflowError):
        raise BadPageToken() from None
    if not isinstance(job_id, str) or not aware:
        raise BadPageToken()
    return place
