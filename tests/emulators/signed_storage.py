"""Front of the storage emulator that checks signed uploads.

It checks them as Cloud Storage does. The emulator takes uploads by links, and ignores signatures, expiry and checksums.
https://cloud.google.com/storage/docs/authentication/signatures
https://cloud.google.com/storage/docs/xml-api/reference-status
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.oauth2 import service_account

from tests.emulators.gateways import HOP_BY_HOP, request_of

EMAIL = "api@gemtune-test.iam.gserviceaccount.com"


class RefusedUpload(Exception):
    """Raised for an upload that Cloud Storage refuses.

    status: of HTTP. code: in the answer's XML.
    """

    def __init__(self, status: int, code: str):
        super().__init__(code)
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload by a link. headers: in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int


@dataclass
class SignedStorage:
    """Server in front of the emulator at `target`.

    on_upload: is called with the number of an upload, from 0, before it is checked; returns what to do with it:
    "damage" its bytes on the way, "drop" the connection, "late" for two hours later, or a status to answer with.
    """

    target: str
    on_upload: Callable[[int], str | int] = lambda number: ""
    uploads: list[Upload] = field(default_factory=list)
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def __post_init__(self) -> None:
        self._count, self._lock = 0, threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def credentials(self) -> service_account.Credentials:
        """Return the credentials of the account whose key signs."""
        pem = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        account = {"client_email": EMAIL, "private_key": pem, "token_uri": "https://oauth2.invalid/token"}
        return service_account.Credentials.from_service_account_info(account)

    def next_number(self) -> int:
        with self._lock:
            self._count += 1
            return self._count - 1

    def check(self, method: str, target: str, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        """Raise RefusedUpload unless Cloud Storage would store a body."""
        parts = urlsplit(target)
        query, _, signature = parts.query.partition("&X-Goog-Signature=")
        fields = dict(parse_qsl(query))
        signed = fields["X-Goog-SignedHeaders"].split(";")
        if any(name not in headers for name in signed):
            raise RefusedUpload(400, "MalformedSecurityHeader")
        if any(name.startswith("x-goog-") and name not in signed for name in headers):
            raise RefusedUpload(403, "SignatureDoesNotMatch")
        signed_at = datetime.strptime(fields["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if now > signed_at + timedelta(seconds=int(fields["X-Goog-Expires"])):
            raise RefusedUpload(400, "ExpiredToken")
        canonical = [method, parts.path, query, *(f"{name}:{headers[name]}" for name in sorted(signed)), ""]
        request = "\n".join([*canonical, ";".join(sorted(signed)), "UNSIGNED-PAYLOAD"])
        scope = fields["X-Goog-Credential"].partition("/")[2]
        text = ["GOOG4-RSA-SHA256", fields["X-Goog-Date"], scope, hashlib.sha256(request.encode()).hexdigest()]
        try:
            self.key.public_key().verify(
                bytes.fromhex(signature), "\n".join(text).encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            raise RefusedUpload(403, "SignatureDoesNotMatch") from None
        _check_body(headers, body)


def _check_body(headers: Mapping[str, str], body: bytes) -> None:
    """Raise RefusedUpload for a body of another size or content."""
    least, most = map(int, headers.get("x-goog-content-length-range", f"0,{len(body)}").split(","))
    if not least <= len(body) <= most:
        raise RefusedUpload(400, "EntityTooLarge" if len(body) > most else "EntityTooSmall")
    md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    if headers.get("content-md5", md5) != md5:
        raise RefusedUpload(400, "BadDigest")


def _handler(storage: SignedStorage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "X-Goog-Signature=" in self.path and self.command == "PUT":
                self._store(body)
            else:
                self._send(*self._ask(body))

        def _store(self, body: bytes) -> None:
            action = storage.on_upload(storage.next_number())
            headers = {name.lower(): value for name, value in self.headers.items()}
            if action == "drop":
                self.close_connection = True
                self.connection.close()
                return
            now = datetime.now(UTC) + timedelta(hours=2 if action == "late" else 0)
            received = bytes([body[0] ^ 1]) + body[1:] if action == "damage" else body
            try:
                if isinstance(action, int):
                    raise RefusedUpload(action, "ServiceUnavailable")
                storage.check(self.command, self.path, headers, received, now)
                status, answer = self._ask(received)[0], b""
                assert status == 200, status
            except RefusedUpload as error:
                status = error.status
                answer = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{error.code}</Code></Error>".encode()
            storage.uploads.append(Upload(urlsplit(self.path).path, headers, body, status))
            self._send(status, [("Content-Type", "application/xml; charset=UTF-8")], answer)

        def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            status, answered, content = request_of(storage.target, self.command, self.path, body, headers)
            if status == 500 and urlsplit(self.path).path.endswith("/compose"):
                status = 404  # what Cloud Storage answers if an object to compose is missing
            own = [(name, value.replace(storage.target, storage.address)) for name, value in answered]
            if any(name.lower() == "content-type" and "json" in value for name, value in answered):
                content = content.replace(storage.target.encode(), storage.address.encode())
            return status, own, content

        def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
