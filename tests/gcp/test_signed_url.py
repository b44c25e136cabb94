"""Signed URLs: signed with a key where there is one, otherwise by the IAM API.

The IAM API and the metadata server are stand-ins. The signatures are real, made with a key generated here.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.auth import compute_engine
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import TransportError
from google.auth.transport import requests as transport
from google.cloud import storage
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from gemtune.errors import NoSignedLinks
from gemtune.gcp.storage import signed_url as module

EMAIL = "api@gemtune-test.iam.gserviceaccount.com"
NAME = "jobs/training_x/export/1/ä b.bin"
QUOTED = "/results/jobs/training_x/export/1/%C3%A4%20b.bin"


class OnCloudRun(compute_engine.Credentials):
    """Default credentials on Cloud Run, without a metadata server."""

    refreshed = 0

    def refresh(self, request: Any) -> None:
        self.refreshed += 1
        self._service_account_email, self.token = EMAIL, "fake-access-token"
        self.expiry = datetime.datetime(2126, 1, 1)


@dataclass
class Iam:
    """Stand-in for the IAM API that signs blobs with its own key, or refuses."""

    key: rsa.RSAPrivateKey
    refusal: int | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, *, url: str, method: str, body: str, headers: dict[str, str]) -> Any:
        self.requests.append({"url": url, "method": method, "headers": headers})
        if self.refusal is not None:
            return Answer(self.refusal, {"error": {"message": "Permission 'iam.serviceAccounts.signBlob' denied"}})
        payload = base64.b64decode(json.loads(body)["payload"])
        signature = self.key.sign(payload, padding.PKCS1v15(), hashes.SHA256())
        return Answer(200, {"keyId": "k", "signedBlob": base64.b64encode(signature).decode()})


class Answer:
    def __init__(self, status: int, body: dict[str, Any]):
        self.status, self.data = status, json.dumps(body).encode()


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def iam(key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch) -> Iam:
    iam = Iam(key)
    monkeypatch.setattr(transport, "Request", lambda: iam)
    return iam


@pytest.fixture
def url_by(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], str]]:
    """Return a function that signs a URL with the given credentials."""

    def url(credentials: Any) -> str:
        def default(*, scopes: list[str]) -> tuple[Any, str]:
            assert scopes == ["https://www.googleapis.com/auth/cloud-platform"]
            return credentials, "p"

        monkeypatch.setattr("google.auth.default", default)
        # Create the client with other credentials: creating it with those of Cloud Run calls the metadata server.
        anonymous = isinstance(credentials, AnonymousCredentials)
        client = storage.Client(
            project="p", credentials=credentials if anonymous else user_credentials.Credentials("fake")
        )
        return module.signed_url(client, client.bucket("results").blob(NAME))

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)  # set by tests that use the emulator
    module._credentials.cache_clear()
    yield url
    module._credentials.cache_clear()


def verify(url: str, key: rsa.RSAPrivateKey) -> None:
    """Verify a URL as Cloud Storage does.

    https://cloud.google.com/storage/docs/authentication/canonical-requests
    """
    parts = urlsplit(url)
    query, signature = parts.query.rsplit("&X-Goog-Signature=", 1)
    fields = {name.lower(): values[0] for name, values in parse_qs(query).items()}
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "storage.googleapis.com", QUOTED)
    assert fields["x-goog-algorithm"] == "GOOG4-RSA-SHA256"
    assert fields["x-goog-expires"] == "3600"
    assert fields["x-goog-credential"].startswith(f"{EMAIL}/")
    canonical = ["GET", parts.path, query, "host:storage.googleapis.com", "", "host", "UNSIGNED-PAYLOAD"]
    digest = hashes.Hash(hashes.SHA256())
    digest.update("\n".join(canonical).encode())
    scope = fields["x-goog-credential"].partition("/")[2]
    signed = ["GOOG4-RSA-SHA256", fields["x-goog-date"], scope, digest.finalize().hex()]
    key.public_key().verify(bytes.fromhex(signature), "\n".join(signed).encode(), padding.PKCS1v15(), hashes.SHA256())


def test_without_a_key_the_iam_api_signs_in_the_name_of_the_service_account(
    url_by: Callable[[Any], str], iam: Iam, key: rsa.RSAPrivateKey
) -> None:
    on_cloud_run = OnCloudRun()
    verify(url_by(on_cloud_run), key)
    verify(url_by(on_cloud_run), key)
    assert on_cloud_run.refreshed == 1
    assert [(request["method"], request["url"]) for request in iam.requests] == 2 * [
        ("POST", f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{EMAIL}:signBlob?alt=json")
    ]
    assert iam.requests[0]["headers"]["Authorization"] == "Bearer fake-access-token"


def test_a_service_account_key_signs_without_the_iam_api(
    url_by: Callable[[Any], str], iam: Iam, key: rsa.RSAPrivateKey
) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {"client_email": EMAIL, "private_key": pem, "token_uri": "https://oauth2.invalid/token"}
    verify(url_by(service_account.Credentials.from_service_account_info(account)), key)
    assert iam.requests == []


def test_a_refusal_to_sign_names_the_missing_role(url_by: Callable[[Any], str], iam: Iam) -> None:
    iam.refusal = 403
    with pytest.raises(NoSignedLinks) as caught:
        url_by(OnCloudRun())
    assert "roles/iam.serviceAccountTokenCreator" in str(caught.value.hint)
    assert "fake-access-token" not in str(caught.value)


def test_user_credentials_cannot_sign(url_by: Callable[[Any], str], iam: Iam) -> None:
    person = user_credentials.Credentials(token="fake-access-token")
    person.expiry = datetime.datetime(2126, 1, 1)
    with pytest.raises(NoSignedLinks):
        url_by(person)


def test_public_objects_need_no_signature(url_by: Callable[[Any], str]) -> None:
    assert url_by(AnonymousCredentials()) == f"https://storage.googleapis.com{QUOTED}"


def test_a_network_failure_is_not_reported_as_a_missing_role(
    url_by: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(**_: Any) -> Any:
        raise TransportError("no route") from OSError()

    monkeypatch.setattr(transport, "Request", lambda: unreachable)
    with pytest.raises(TransportError):
        url_by(OnCloudRun())
