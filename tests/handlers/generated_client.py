"""Client that is made of an OpenAPI document alone, as generators make one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import flask.testing
import jsonschema

JSON, BYTES = "application/json", "application/octet-stream"


class GeneratedClient:
    """Client with a method per `operationId`.

    Its arguments are the parameters by their names, with `_` for `-`, and `body`. Requests and answers are checked
    against their schemas; an answer that the document does not describe is an error.
    """

    def __init__(self, document: Mapping[str, Any], http: flask.testing.FlaskClient):
        self._document, self._http = document, http
        self._operations = {
            operation["operationId"]: (method, path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        }

    def __getattr__(self, name: str) -> Any:
        if name not in self._operations:
            raise AttributeError(f"the document has no operation {name}")
        return lambda **arguments: self._call(name, arguments)

    def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        method, path, operation = self._operations[name]
        query: dict[str, str] = {}
        headers: dict[str, str] = {}
        for parameter in operation["parameters"]:
            value = arguments.pop(parameter["name"].replace("-", "_"), None)
            if value is None:
                assert not parameter["required"], f"{name} needs {parameter['name']}"
                continue
            self._check(value, parameter["schema"])
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(str(value), safe=""))
            else:
                {"query": query, "header": headers}[parameter["in"]][parameter["name"]] = str(value)
        sent = self._body(operation, arguments.pop("body", None))
        assert not arguments, f"{name} has no {sorted(arguments)}"
        answer = self._http.open(path, method=method.upper(), query_string=query, headers=headers, **sent)
        described = operation["responses"][str(answer.status_code)]["content"][JSON]["schema"]
        self._check(answer.json, described)
        if answer.status_code >= 300:
            raise RuntimeError(f"{name}: {answer.json}")
        return answer.json

    def _body(self, operation: Mapping[str, Any], body: Any) -> dict[str, Any]:
        """Return the arguments for the body of a request."""
        described = operation.get("requestBody")
        if described is None:
            assert body is None
            return {}
        if BYTES in described["content"]:
            return {"data": body, "content_type": BYTES}
        if body is None:
            assert not described["required"]
            return {}
        self._check(body, described["content"][JSON]["schema"])
        return {"data": json.dumps(body), "content_type": JSON}

    def _check(self, value: Any, schema: Mapping[str, Any]) -> None:
        jsonschema.Draft202012Validator({**schema, "components": self._document["components"]}).validate(value)
