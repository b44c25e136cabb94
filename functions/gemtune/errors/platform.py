"""Errors of stores, settings and receivers."""

from __future__ import annotations

from gemtune.errors.base import Conflict, GemtuneError, NotFound

# Errors of stores and of the platform.


class ObjectNotFound(NotFound):
    """Raised when no object has the given name."""

    code = "object_not_found"


class ObjectExists(Conflict):
    """Raised when a create-only write finds an object of that name."""

    code = "object_exists"


class UnsafeName(GemtuneError):
    """Raised for a name that would lead out of its bucket."""

    code = "unsafe_name"


class NoLogs(GemtuneError):
    """Raised if the service may not read the output of steps."""

    code = "no_logs"


class LogsBusy(GemtuneError):
    """Raised if the platform does not return the output of steps now."""

    code = "logs_busy"


class NoSignedLinks(GemtuneError):
    """Raised when the service's account cannot sign a link to an object."""

    code = "no_signed_links"


class SecretNotFound(NotFound):
    """Raised when no secret has the given name, or it has expired."""

    code = "secret_not_found"


class CannotStore(GemtuneError):
    """Raised when a write fails because the disk is full or read-only."""

    code = "cannot_store"

    def __init__(self, place: str, reason: str):
        super().__init__(f"{place} cannot be written: {reason}", hint="make room there, or let the service write there")
        self.place, self.reason = place, reason


class BadSetting(GemtuneError):
    """Raised for an environment variable that is missing or has a bad value."""

    code = "bad_setting"


class AddressNotAllowed(GemtuneError):
    """Raised for a webhook whose host has an address inside a network."""

    code = "address_not_allowed"

    def __init__(self, host: str):
        super().__init__(f"{host} is inside a private network", hint="use a host with a public address")


class WebhookRefused(GemtuneError):
    """Raised when a webhook's receiver does not answer 2xx."""

    code = "webhook_refused"

    def __init__(self, status: int):
        super().__init__(f"the webhook's receiver answered {status}", hint="answer 2xx; the event is sent again")
