"""Delivery of messages and triggers to the services behind the functions.

On Google Cloud, Pub/Sub and Eventarc deliver them, as requests that `handlers/cloud_events.py` translates to the same
calls.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from gemtune.bootstrap import Services
from gemtune.embedded.sqlite_bus import LeasedMessage, SqliteBus
from gemtune.redaction import redact
from gemtune.services.dispatch import message_key

log = logging.getLogger(__name__)

# Seconds between two polls for messages that have become due again, and of a pause after each commit: new messages wake
# the loop, and one request commits several times.
POLL_SECONDS, PAUSE_SECONDS = 0.25, 0.005
FAILURE_SECONDS = 1.0
WORKERS = 8

Receiver = Callable[[LeasedMessage], None]


def receivers(services: Services) -> Mapping[str, Receiver]:
    """Return the function that gets the messages of each push subscription.

    One that returns acknowledges its message; one that raises has it delivered again.
    """
    owner = services.settings.service_owner

    def dispatch(message: LeasedMessage) -> None:
        key = message_key(message.attributes, message.topic, message.message_id)
        services.dispatch(message.message, key=key, owner=owner)

    def fan_out(message: LeasedMessage) -> None:
        _, job_id, *_ = message.attributes["document"].split("/")
        services.fan_out(job_id)

    def ingest(message: LeasedMessage) -> None:
        stored = json.loads(message.message)
        services.ingest(stored["bucket"], stored["name"], stored["generation"], owner=owner)

    def notify(message: LeasedMessage) -> None:
        services.notify(message.message)

    return {"dispatch": dispatch, "fan_out": fan_out, "ingest": ingest, "notify": notify}


@dataclass
class _SubscriptionWorkers:
    """Workers of one push subscription and the deliveries they are making."""

    name: str
    workers: ThreadPoolExecutor
    pending: set[Future[None]] = field(default_factory=set)

    def free(self) -> int:
        """Return how many workers make no delivery."""
        self.pending = {future for future in self.pending if not future.done()}
        return WORKERS - len(self.pending)


class Delivery:
    """Passes due messages to their receivers."""

    def __init__(self, bus: SqliteBus, receivers: Mapping[str, Receiver]):
        """receivers: by the name of their push subscription."""
        self._bus, self._receivers = bus, receivers
        self._stopping = threading.Event()

    def run(self) -> None:
        """Deliver messages until `stop` is called.

        Each subscription has its own workers, so that a slow webhook receiver delays only other webhooks.
        """
        with ExitStack() as stack:
            subscriptions = [
                _SubscriptionWorkers(name, stack.enter_context(ThreadPoolExecutor(WORKERS)))
                for name in self._bus.push_subscriptions()
            ]
            while not self._stopping.is_set():
                try:
                    version = self._bus.version()
                    if self._submit_due(subscriptions) == 0:
                        self._bus.wait_for_newer(version, POLL_SECONDS)
                        self._stopping.wait(PAUSE_SECONDS)
                except Exception:
                    log.exception("messages could not be read; trying again")
                    self._stopping.wait(FAILURE_SECONDS)

    def _submit_due(self, subscriptions: Sequence[_SubscriptionWorkers]) -> int:
        """Lease due messages for free workers; return how many.

        All subscriptions are looked through at once, so none gets more messages than the one with the fewest free
        workers has; the others get theirs at the next call.
        """
        free = {each.name: each.free() for each in subscriptions}
        names = [name for name, workers in free.items() if workers]
        messages = self._bus.lease(names, min(free[name] for name in names)) if names else []
        for message in messages:
            subscription = next(each for each in subscriptions if each.name == message.subscription)
            subscription.pending.add(subscription.workers.submit(self.deliver, message))
        return len(messages)

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping.set()

    def deliver(self, message: LeasedMessage) -> None:
        """Make one delivery attempt, then acknowledge or reject the message.

        Raises nothing: after any failure, the message is delivered again later.
        """
        try:
            self._receivers[message.subscription](message)
            self._bus.ack(message.subscription, [message.ack_id])
            return
        except Exception as failure:
            error = redact(f"{type(failure).__name__}: {failure}")
            log.warning("%s rejected message %s", message.subscription, message.message_id, exc_info=True)
        try:
            self._bus.reject(message, error)
        except Exception:
            log.exception("message %s will be delivered again when its lease ends", message.message_id)
