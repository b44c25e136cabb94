"""The call `http.post` of Cloud Workflows.

Reference: https://cloud.google.com/workflows/docs/reference/stdlib/http/post
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from gemtune.local_server.workflow_engine.errors import WorkflowError, language_error


def http_post(args: Mapping[str, Any], *, client: httpx2.Client, id_token: Callable[[str], str]) -> dict[str, Any]:
    """POST a JSON body; return code, headers and the decoded body.

    `args` are the arguments in the workflow. With `auth`, the request carries an ID token for the `audience`, by
    default the URL; `id_token` maps an audience to a token.

    Raises WorkflowError with the tag HttpError for a status code of 400 or more, ConnectionError or TimeoutError.
    """
    url, headers = args["url"], dict(args.get("headers") or {})
    if (auth := args.get("auth")) is not None:
        headers["Authorization"] = f"Bearer {id_token(auth.get('audience', url))}"
    try:
        response = client.post(url, json=args.get("body"), headers=headers, timeout=args.get("timeout", 300))
    except httpx2.TimeoutException as error:
        raise language_error("TimeoutError", f"{url} did not answer in time: {error}") from error
    except httpx2.TransportError as error:
        raise language_error("ConnectionError", f"{url} cannot be reached: {error}") from error
    result = {"code": response.status_code, "headers": dict(response.headers), "body": _decode_body(response)}
    if response.status_code >= 400:
        message = f"HTTP server responded with error code {response.status_code}"
        raise WorkflowError({"message": message, "tags": ["HttpError"], **result})
    return result


def _decode_body(response: httpx2.Response) -> Any:
    """Return a response's body: decoded if it is JSON, else as text."""
    if "json" in response.headers.get("content-type", ""):
        try:
            return response.json()
        except ValueError:
            return response.text
    return response.text
