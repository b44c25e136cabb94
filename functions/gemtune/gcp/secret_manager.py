"""Secrets in Secret Manager, with an expiry time if they have a time to live."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import google_crc32c
from google.api_core.exceptions import AlreadyExists, FailedPrecondition, NotFound

from gemtune.errors import SecretNotFound
from gemtune.ports import SecretStat
from gemtune.secret_name import missing_hint, validate_name

if TYPE_CHECKING:
    from google.cloud import secretmanager_v1

TIMEOUT = 20.0


class SecretManagerSecrets:
    """`ports.Secrets` on Secret Manager.

    The latest version of a secret is its value.
    """

    def __init__(self, project_id: str, *, endpoint: str | None = None):
        """Create the port.

        `endpoint` is an emulator's host:port, without TLS; None is Google's API.
        """
        self._project = f"projects/{project_id}"
        self._endpoint = endpoint

    @cached_property
    def _client(self) -> secretmanager_v1.SecretManagerServiceClient:
        """Return the client of Google's API or of the emulator."""
        from google.cloud import secretmanager_v1

        if self._endpoint is None:
            return secretmanager_v1.SecretManagerServiceClient()
        import grpc
        from google.cloud.secretmanager_v1.services.secret_manager_service import transports

        channel = grpc.insecure_channel(self._endpoint)
        transport = transports.SecretManagerServiceGrpcTransport(channel=channel)
        return secretmanager_v1.SecretManagerServiceClient(transport=transport)

    def create(self, name: str, value: str, *, ttl: timedelta | None) -> None:
        """Add a version with the value, and create the secret if needed."""
        path = self._path(name)
        if not self._create(name, ttl) and ttl is not None:
            self._renew(path, ttl)
        self._add_version(path, value)

    def create_once(self, name: str, value: str) -> str:
        """Add version 1 unless it exists, and return its value."""
        # Version 1 is the value: concurrent callers may each add a version, but only one of them is number 1.
        path = self._path(name)
        try:
            return self._access(f"{path}/versions/1")
        except NotFound:
            try:
                # Terraform has created the secret without a version, so the service needs no right to create secrets.
                self._add_version(path, value)
            except NotFound:
                self._create(name, None)
                self._add_version(path, value)
            return self._access(f"{path}/versions/1")

    def read(self, name: str) -> str:
        """Return the value of the latest version. Raises SecretNotFound."""
        path = self._path(name)
        try:
            try:
                return self._access(f"{path}/versions/latest")
            except NotFound:  # `latest` is eventually consistent: it may not exist yet when version 1 already does
                return self._access(f"{path}/versions/1")
        except (NotFound, FailedPrecondition):  # FailedPrecondition: the version is disabled or destroyed
            raise _not_found(name) from None

    def renew(self, name: str, *, ttl: timedelta) -> None:
        """Make a secret expire `ttl` from now. Raises SecretNotFound."""
        try:
            self._renew(self._path(name), ttl)
        except NotFound:
            raise _not_found(name) from None

    def delete(self, name: str) -> None:
        """Delete a secret if it exists."""
        with suppress(NotFound):
            self._client.delete_secret(name=self._path(name), timeout=TIMEOUT)

    def list(self, prefix: str) -> Iterator[SecretStat]:
        """Yield the secrets whose names begin with `prefix`."""
        request = {"parent": self._project, "filter": f"name:{prefix}"}
        for secret in self._client.list_secrets(request=request, timeout=TIMEOUT):
            name = secret.name.rpartition("/")[2]
            if name.startswith(prefix):  # the filter matches it anywhere in the name
                yield SecretStat(name, secret.create_time)

    def _create(self, name: str, ttl: timedelta | None) -> bool:
        """Create an empty secret unless it exists; return whether it is new."""
        secret: dict[str, Any] = {"replication": {"automatic": {}}} | ({} if ttl is None else {"ttl": ttl})
        try:
            request = {"parent": self._project, "secret_id": validate_name(name), "secret": secret}
            self._client.create_secret(request=request, timeout=TIMEOUT)
        except AlreadyExists:
            return False
        return True

    def _add_version(self, path: str, value: str) -> None:
        """Add a value as the latest version, with its checksum."""
        content = value.encode()
        payload = {"data": content, "data_crc32c": google_crc32c.value(content)}
        self._client.add_secret_version(request={"parent": path, "payload": payload}, timeout=TIMEOUT)

    def _renew(self, path: str, ttl: timedelta) -> None:
        """Set the time to live of the secret with this path."""
        request = {"secret": {"name": path, "ttl": ttl}, "update_mask": {"paths": ["ttl"]}}
        self._client.update_secret(request=request, timeout=TIMEOUT)

    def _access(self, version: str) -> str:
        """Return the value of a version, by its full name. Raises NotFound."""
        content: bytes = self._client.access_secret_version(name=version, timeout=TIMEOUT).payload.data
        return content.decode()

    def _path(self, name: str) -> str:
        """Return a secret's full name. Raises UnsafeName."""
        return f"{self._project}/secrets/{validate_name(name)}"


def _not_found(name: str) -> SecretNotFound:
    return SecretNotFound(f"there is no secret {name!r}, or it has expired", hint=missing_hint(name))
