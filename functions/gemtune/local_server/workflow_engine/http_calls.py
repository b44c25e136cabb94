"""`http.post` as Cloud Workflows has it: https://cloud.google.com/workflows/docs/reference/stdlib/http/post"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from gemtune.local_server.workflow_engine.errors import WorkflowError, language_error


def http_post(args: Mapping[str, Any], *, client: httpx2.Client, id_token: Callable[[str], str]) -> dict[str, Any]:
    """POST a JSON body; return code, headers and the decoded body. `auth: {type: OIDC}` sends an identity token, for
    `audience` or else the URL.

    Raises WorkflowError: HttpError for a code of 400 or more, ConnectionError, TimeoutError.
    """
    url, headers = args["url"], dict(args.get("headers") or {})
    if (auth := args.get("auth")) is not None:
        headers["Authorization"] = f"Bearer {id_token(auth.get('audience', url))}"
    try:
        answer = client.post(url, json=args.get("body"), headers=headers, timeout=args.get("timeout", 300))
    except httpx2.TimeoutException as error:
        raise language_error("TimeoutError", f"{url} did not answer in time: {error}") from error
    except httpx2.TransportError as error:
        raise language_error("ConnectionError", f"{url} cannot be reached: {error}") from error
    decoded = _decoded(answer)
    if answer.status_code >= 400:
        message = f"HTTP server responded with error code {answer.status_code}"
        found = {"code": answer.status_code, "body": decoded, "headers": dict(answer.headers)}
        raise WorkflowError({"message": message, "tags": ["HttpError"], **found})
    return {"code": answer.status_code, "headers": dict(answer.headers), "body": decoded}


def _decoded(answer: httpx2.Response) -> Any:
    if "json" in answer.headers.get("content-type", ""):
        try:
            return answer.json()
        except ValueError:
            return answer.text
    return answer.text
