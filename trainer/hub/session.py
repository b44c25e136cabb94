"""How huggingface_hub behaves while something is uploaded: it stops when the step has to, and waits for nobody long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

# Seconds without an answer or a byte; the library's own client waits for ever.
TIMEOUT = 60.0
# Seconds that the library may sleep on a server's word; what says more is left to our own waits, which can be stopped.
LONGEST_SLEEP = 30


class Busy(Exception):
    """The Hub asks to come again later."""

    def __init__(self, seconds: float):
        super().__init__(f"the Hub asks to wait for {seconds:.0f} s")
        self.seconds = seconds


@contextmanager
def uploading(check_stop: Callable[[], None]) -> Iterator[None]:
    """`check_stop` is asked before each request. The library keeps one client for a process, so this is for one thread
    at a time."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import disable_progress_bars, logging
    from huggingface_hub.utils._http import default_client_factory

    disable_progress_bars()
    before = constants.HF_HUB_DISABLE_XET, logging.get_verbosity()
    # Where hf_xet is installed the library uses it without asking the server. Its protocol is a binary one of its own,
    # which no server of ours speaks; the Hub takes files by LFS as well, which is tested here to the last request.
    constants.HF_HUB_DISABLE_XET = True
    logging.set_verbosity_error()  # its warnings name links that are signed, and we say what matters ourselves
    set_client_factory(lambda: _client(check_stop))
    try:
        yield
    finally:
        set_client_factory(default_client_factory)
        constants.HF_HUB_DISABLE_XET = before[0]
        logging.set_verbosity(before[1])


def retry_after(response: httpx2.Response) -> float:
    """Seconds to wait by the server's word: Retry-After, or what is left of the window that RateLimit names.

    https://www.rfc-editor.org/rfc/rfc9110#name-retry-after
    """
    from huggingface_hub.utils._http import parse_ratelimit_headers

    said = response.headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    limit = parse_ratelimit_headers(response.headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0


def _client(check_stop: Callable[[], None]) -> httpx2.Client:
    """Like the library's own, but for the timeout and the hooks. It goes online whatever HF_HUB_OFFLINE says: that is
    set where models are loaded from files that are here, and would keep an upload from going anywhere."""
    import httpx2

    hooks = {"request": [lambda request: check_stop()], "response": [_look]}
    return httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT)


def _look(response: httpx2.Response) -> None:
    """Raises Busy where the library would sleep on the server's word, or ask again at once and for ever; and what a
    refusal is where the library reads its JSON first, which may be none."""
    from huggingface_hub.utils import hf_raise_for_status

    if response.url.path == "/api/validate-yaml" and response.status_code > 400:
        response.read()
        hf_raise_for_status(response)
    if response.status_code in (429, 503) and (seconds := retry_after(response)) > LONGEST_SLEEP:
        raise Busy(seconds)
    if response.status_code == 409 and response.url.path == "/api/repos/create":
        response.read()
        if "conflicting operation" in response.text:
            raise Busy(1.0)
