"""URLs that read one object of Cloud Storage without credentials, for an hour."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gemtune.errors import NoSignedLinks

if TYPE_CHECKING:
    from google.cloud import storage

LIFETIME = timedelta(hours=1)
# Of the IAM API, which signs: a token for Cloud Storage alone would be refused there.
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def signed_url(client: storage.Client, blob: storage.Blob) -> str:
    """A V4 signed URL. Raises NoSignedLinks.

    https://cloud.google.com/storage/docs/access-control/signing-urls-with-helpers
    """
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import TransportError

    if isinstance(client._credentials, AnonymousCredentials):
        return str(blob.public_url)  # what needs no credentials needs no signature: an emulator
    try:
        return str(blob.generate_signed_url(version="v4", expiration=LIFETIME, method="GET", **_signer()))
    except TransportError as error:
        if error.__cause__ is not None:  # the network, which passes; what IAM answers has no cause
            raise
        hint = "its service account needs roles/iam.serviceAccountTokenCreator, or signBlob alone, on itself"
        raise NoSignedLinks("the service may not sign links as itself", hint=hint) from error


def _signer() -> dict[str, Any]:
    """What `generate_signed_url` signs with: the key of the credentials, or, where there is none (on Cloud Functions
    and Cloud Run), the IAM API in the name of their service account."""
    from google.auth.credentials import Signing
    from google.auth.transport.requests import Request

    credentials = _credentials()
    if isinstance(credentials, Signing):
        return {"credentials": credentials}
    if not credentials.valid:
        credentials.refresh(Request())  # which also learns the account's email
    email = getattr(credentials, "service_account_email", None)
    if email is None:
        hint = "run the service as a service account, or read the objects with `gcloud storage cp`"
        raise NoSignedLinks("the service's credentials are not those of a service account", hint=hint)
    return {"service_account_email": email, "access_token": credentials.token}


@lru_cache(maxsize=1)
def _credentials() -> Any:
    import google.auth

    return google.auth.default(scopes=[SCOPE])[0]
