"""Signed URLs, which read one Cloud Storage object without credentials."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gemtune.errors import NoSignedLinks

if TYPE_CHECKING:
    from google.cloud import storage

LIFETIME = timedelta(hours=1)
# Signing calls the IAM API, which rejects tokens that are limited to Cloud Storage.
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def signed_url(client: storage.Client, blob: storage.Blob) -> str:
    """Return a V4 signed URL that is valid for LIFETIME.

    Raises NoSignedLinks if the service has no right to sign.
    https://cloud.google.com/storage/docs/access-control/signing-urls-with-helpers
    """
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import TransportError

    if isinstance(client._credentials, AnonymousCredentials):
        return str(blob.public_url)  # an emulator, which needs neither credentials nor signatures
    try:
        return str(blob.generate_signed_url(version="v4", expiration=LIFETIME, method="GET", **_signer()))
    except TransportError as error:
        if error.__cause__ is not None:  # a network error, which is transient; an answer of IAM has no cause
            raise
        hint = "grant its service account roles/iam.serviceAccountTokenCreator, or signBlob alone, on itself"
        raise NoSignedLinks("the service is not allowed to sign links as itself", hint=hint) from error


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
