"""Settings of huggingface_hub for an upload that times out and can be stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

# Seconds without an answer or a byte. huggingface_hub's own client has no timeout.
TIMEOUT = 60.0
# If a server asks for a longer wait, huggingface_hub would sleep for that many seconds, uninterruptibly. `Upload` waits
# instead, and can be stopped.
MAX_SLEEP = 30


class Busy(Exception):
    """Raised when the Hub asks to retry later. seconds: how long to wait."""

    def __init__(self, seconds: float):
        super().__init__(f"the Hub asks to wait for {seconds:.0f} s")
        self.seconds = seconds


@contextmanager
def uploading(check_stop: Callable[[], None]) -> Iterator[None]:
    """Configure huggingface_hub for an upload while the block runs.

    check_stop: called before each request; raises to stop. huggingface_hub has one client per process, so only one
    thread at a time may use this.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import disable_progress_bars, logging
    from huggingface_hub.utils._http import default_client_factory

    disable_progress_bars()
    before = constants.HF_HUB_DISABLE_XET, logging.get_verbosity()
    # If hf_xet is installed, huggingface_hub uploads with its binary protocol, which our tests' server does not
    # implement. The Hub also accepts files by LFS, of which every request is tested.
    constants.HF_HUB_DISABLE_XET = True
    logging.set_verbosity_error()  # its warnings contain signed URLs; this package logs what matters itself
    set_client_factory(lambda: _client(check_stop))
    try:
        yield
    finally:
        set_client_factory(default_client_factory)
        constants.HF_HUB_DISABLE_XET = before[0]
        logging.set_verbosity(before[1])


def retry_after(response: httpx2.Response) -> float:
    """Return the seconds that a server asks to wait, or 0.

    They are in Retry-After (https://www.rfc-editor.org/rfc/rfc9110#name-retry-after), or, if the rate limit is used up,
    in the RateLimit header.
    """
    from huggingface_hub.utils._http import parse_ratelimit_headers

    seconds = response.headers.get("Retry-After", "").strip()
    if seconds.isascii() and seconds.isdigit():
        return float(seconds)
    limit = parse_ratelimit_headers(response.headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0


def _client(check_stop: Callable[[], None]) -> httpx2.Client:
    """Return huggingface_hub's own client with a timeout and hooks.

    Unlike the library's, it ignores HF_HUB_OFFLINE, which a machine may set because it loads models from local files.
    """
    import httpx2

    hooks = {"request": [lambda request: check_stop()], "response": [_check_answer]}
    return httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT)


def _check_answer(response: httpx2.Response) -> None:
    """Raise Busy for answers after which huggingface_hub would not come back.

    It would sleep as long as the server asks, or retry at once without end. Also raises the HTTP error of an answer
    whose body the library would parse as JSON first, which it may not be.
    """
    from huggingface_hub.utils import hf_raise_for_status

    if response.url.path == "/api/validate-yaml" and response.status_code > 400:
        response.read()
        hf_raise_for_status(response)
    if response.status_code in (429, 503) and (seconds := retry_after(response)) > MAX_SLEEP:
        raise Busy(seconds)
    if response.status_code == 409 and response.url.path == "/api/repos/create":
        response.read()
        if "conflicting operation" in response.text:
            raise Busy(1.0)
