"""Stand-in for Secret Manager: secrets with versions and an expiry, in memory."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import google_crc32c
import grpc
from google.cloud.secretmanager_v1 import types
from google.protobuf import empty_pb2

from tests.emulators.grpc_service import serve

SERVICE = "google.cloud.secretmanager.v1.SecretManagerService"


@dataclass
class _Secret:
    created_at: datetime
    expires_at: datetime | None
    versions: list[bytes] = field(default_factory=list)
    disabled: set[int] = field(default_factory=set)


class SecretManagerStandIn:
    """Secret Manager in memory.

    `now` is its clock, which tests move. `lag` is by how many versions `latest` lags behind.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)):
        self.now, self.lag = now, 0
        self._secrets: dict[str, _Secret] = {}
        self._lock = threading.RLock()
        t = types
        methods = {
            "CreateSecret": (self._create, t.CreateSecretRequest, t.Secret),
            "UpdateSecret": (self._update, t.UpdateSecretRequest, t.Secret),
            "DeleteSecret": (self._delete, t.DeleteSecretRequest, empty_pb2.Empty),
            "ListSecrets": (self._list, t.ListSecretsRequest, t.ListSecretsResponse),
            "AddSecretVersion": (self._add, t.AddSecretVersionRequest, t.SecretVersion),
            "AccessSecretVersion": (self._access, t.AccessSecretVersionRequest, t.AccessSecretVersionResponse),
            "DisableSecretVersion": (self._disable, t.DisableSecretVersionRequest, t.SecretVersion),
        }
        self._server, self.address = serve(SERVICE, methods)

    def stop(self) -> None:
        self._server.stop(None)

    def names(self) -> list[str]:
        """Return the names of all secrets that have not expired."""
        with self._lock:
            return [name.rpartition("/")[2] for name in self._secrets if self._alive(name)]

    def _create(self, request: Any, context: grpc.ServicerContext) -> Any:
        name = f"{request.parent}/secrets/{request.secret_id}"
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", request.secret_id):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad secret id")
        with self._lock:
            if self._alive(name):
                context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{name} already exists")
            self._secrets[name] = _Secret(self.now(), self._expiry(request.secret))
            return self._resource(name)

    def _update(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            secret = self._require(request.secret.name, context)
            if list(request.update_mask.paths) != ["ttl"]:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "only ttl")
            secret.expires_at = self._expiry(request.secret)
            return self._resource(request.secret.name)

    def _delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self._require(request.name, context)
            del self._secrets[request.name]
        return empty_pb2.Empty()

    def _list(self, request: Any, context: grpc.ServicerContext) -> Any:
        part = request.filter.removeprefix("name:")
        with self._lock:
            names = sorted(name for name in self._secrets if name.startswith(f"{request.parent}/") and part in name)
            return types.ListSecretsResponse(secrets=[self._resource(name) for name in names if self._alive(name)])

    def _add(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            secret = self._require(request.parent, context)
            if google_crc32c.value(request.payload.data) != request.payload.data_crc32c:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "checksum mismatch")
            secret.versions.append(request.payload.data)
            return types.SecretVersion(name=f"{request.parent}/versions/{len(secret.versions)}")

    def _access(self, request: Any, context: grpc.ServicerContext) -> Any:
        name, _, version = request.name.partition("/versions/")
        with self._lock:
            secret = self._require(name, context)
            number = len(secret.versions) - self.lag if version == "latest" else int(version)
            if not 1 <= number <= len(secret.versions):
                context.abort(grpc.StatusCode.NOT_FOUND, f"{request.name} not found")
            if number in secret.disabled:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{request.name} is disabled")
            content = secret.versions[number - 1]
        payload = types.SecretPayload(data=content, data_crc32c=google_crc32c.value(content))
        return types.AccessSecretVersionResponse(name=f"{name}/versions/{number}", payload=payload)

    def _disable(self, request: Any, context: grpc.ServicerContext) -> Any:
        name, _, number = request.name.partition("/versions/")
        with self._lock:
            self._require(name, context).disabled.add(int(number))
        return types.SecretVersion(name=request.name, state=types.SecretVersion.State.DISABLED)

    def _expiry(self, secret: Any) -> datetime | None:
        return self.now() + secret.ttl if "ttl" in secret else None

    def _alive(self, name: str) -> bool:
        secret = self._secrets.get(name)
        return secret is not None and (secret.expires_at is None or self.now() < secret.expires_at)

    def _require(self, name: str, context: grpc.ServicerContext) -> _Secret:
        if not self._alive(name):
            context.abort(grpc.StatusCode.NOT_FOUND, f"{name} not found")
        return self._secrets[name]

    def _resource(self, name: str) -> Any:
        secret = self._secrets[name]
        return types.Secret(name=name, create_time=secret.created_at, expire_time=secret.expires_at)
