"""Signed URLs, which read or write one Cloud Storage object.

They need no credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gemtune.errors import NoSignedLinks
from gemtune.ports import UploadLink

if TYPE_CHECKING:
    from google.cloud import storage

LIFETIME = timedelta(hours=1)
ALGORITHM = "GOOG4-RSA-SHA256"
# Signing calls the IAM API, which rejects tokens that are limited to Cloud Storage.
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def signed_url(client: storage.Client, blob: storage.Blob) -> str:
    """Return a V4 signed URL that reads an object for LIFETIME.

    Raises NoSignedLinks if the service has no right to sign.
    https://cloud.google.com/storage/docs/access-control/signing-urls-with-helpers
    """
    return str(blob.public_url) if _is_emulator(client) else _sign(blob, "GET", {})


def signed_upload(client: storage.Client, blob: storage.Blob, size: int) -> UploadLink:
    """Return a V4 signed URL that writes an object for LIFETIME.

    Cloud Storage refuses content of another size, because the header with the range of sizes is signed.
    https://cloud.google.com/storage/docs/xml-api/reference-headers#xgoogcontentlengthrange
    Raises NoSignedLinks if the service has no right to sign.
    """
    headers = {"x-goog-content-length-range": f"{size},{size}"}
    if _is_emulator(client):
        return UploadLink(f"{blob.public_url}?X-Goog-Algorithm={ALGORITHM}", headers)
    return UploadLink(_sign(blob, "PUT", headers), headers)


def _is_emulator(client: storage.Client) -> bool:
    """Return whether a client has no credentials.

    Emulators need neither credentials nor signatures.
    """
    from google.auth.credentials import AnonymousCredentials

    return isinstance(client._credentials, AnonymousCredentials)


def _sign(blob: storage.Blob, method: str, headers: Mapping[str, str]) -> str:
    """Return a signed URL for an object. Raises NoSignedLinks."""
    from google.auth.exceptions import TransportError

    try:
        signed = blob.generate_signed_url(
            version="v4", expiration=LIFETIME, method=method, headers=dict(headers), **_signer()
        )
    except TransportError as error:
        if error.__cause__ is not None:  # a network error, which is transient; an answer of IAM has no cause
            raise
        hint = "grant its service account roles/iam.serviceAccountTokenCreator, or signBlob alone, on itself"
        raise NoSignedLinks("the service is not allowed to sign links as itself", hint=hint) from error
    return str(signed)


def _signer() -> dict[str, Any]:
    """Return the arguments that tell `generate_signed_url` how to sign.

    It signs with the private key of the credentials, if they have one. Otherwise, as on Cloud Functions and Cloud Run,
    the IAM API signs for their service account. Raises NoSignedLinks if there is no service account.
    """
    from google.auth.credentials import Signing
    from google.auth.transport.requests import Request

    credentials = _credentials()
    if isinstance(credentials, Signing):
        return {"credentials": credentials}
    if not credentials.valid:
        credentials.refresh(Request())  # also fetches the service account's email
    email = getattr(credentials, "service_account_email", None)
    if email is None:
        hint = "run the service as a service account, or copy the objects with `gcloud storage cp`"
        raise NoSignedLinks("the service's credentials do not belong to a service account", hint=hint)
    return {"service_account_email": email, "access_token": credentials.token}


@lru_cache(maxsize=1)
def _credentials() -> Any:
    """Return the application default credentials, with the scope to sign."""
    import google.auth

    return google.auth.default(scopes=[SCOPE])[0]
