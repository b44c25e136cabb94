"""Stand-in for a Terraform provider that has its schema and contacts no cloud.

Terraform runs `serve.py SCHEMA` as a provider. `serve.py NAME=SCHEMA …` serves several providers until stdin ends.

Terraform itself parses, checks types and references, evaluates expressions and plans. Values that a real provider
computes are unknown until apply, which makes them up. The protocol is version 6:
https://developer.hashicorp.com/terraform/plugin/terraform-plugin-protocol
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import tf.provider
import tf.runner
from archive import archive_file
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as rpc
from values import UNKNOWN, decoded, encoded, filled, placeholder, problems, without_unknown

NESTING = {
    "single": pb.Schema.NestedBlock.SINGLE,
    "list": pb.Schema.NestedBlock.LIST,
    "set": pb.Schema.NestedBlock.SET,
}
# Values of data sources that configurations calculate with.
DATA: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "archive_file": archive_file,
    "google_project": lambda config: {"number": "123456789012"},
}


class StandIn(rpc.ProviderServicer):  # type: ignore[misc]
    def __init__(self, schema: dict[str, Any]):
        self._schema = schema
        self._described = pb.GetProviderSchema.Response(
            provider=_schema(schema["provider"]),
            provider_meta=pb.Schema(block=pb.Schema.Block()),
            resource_schemas={name: _schema(block) for name, block in schema["resources"].items()},
            data_source_schemas={name: _schema(block) for name, block in schema["data"].items()},
        )

    def GetMetadata(self, request: Any, context: Any) -> Any:
        return pb.GetMetadata.Response(
            resources=[pb.GetMetadata.ResourceMetadata(type_name=name) for name in self._schema["resources"]],
            data_sources=[pb.GetMetadata.DataSourceMetadata(type_name=name) for name in self._schema["data"]],
        )

    def GetProviderSchema(self, request: Any, context: Any) -> Any:
        return self._described

    def GetFunctions(self, request: Any, context: Any) -> Any:
        return pb.GetFunctions.Response()

    def ValidateProviderConfig(self, request: Any, context: Any) -> Any:
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request: Any, context: Any) -> Any:
        errors = problems(self._schema["resources"][request.type_name], decoded(request.config.msgpack))
        return pb.ValidateResourceConfig.Response(diagnostics=[_diagnostic(path, text) for path, text in errors])

    def ValidateDataResourceConfig(self, request: Any, context: Any) -> Any:
        errors = problems(self._schema["data"][request.type_name], decoded(request.config.msgpack))
        return pb.ValidateDataResourceConfig.Response(diagnostics=[_diagnostic(path, text) for path, text in errors])

    def ConfigureProvider(self, request: Any, context: Any) -> Any:
        self._project = without_unknown(decoded(request.config.msgpack)).get("project")
        return pb.ConfigureProvider.Response()

    def StopProvider(self, request: Any, context: Any) -> Any:
        return pb.StopProvider.Response()

    def UpgradeResourceState(self, request: Any, context: Any) -> Any:
        return pb.UpgradeResourceState.Response(upgraded_state=pb.DynamicValue(json=request.raw_state.json))

    def ReadResource(self, request: Any, context: Any) -> Any:
        return pb.ReadResource.Response(new_state=request.current_state)

    def PlanResourceChange(self, request: Any, context: Any) -> Any:
        planned = decoded(request.proposed_new_state.msgpack)
        if planned is not None and decoded(request.prior_state.msgpack) is None:
            if request.type_name == "google_service_account":
                planned |= _email(planned, self._project)
            planned = filled(self._schema["resources"][request.type_name], planned, lambda name, kind: UNKNOWN)
        return pb.PlanResourceChange.Response(planned_state=_value(planned))

    def ApplyResourceChange(self, request: Any, context: Any) -> Any:
        planned = without_unknown(decoded(request.planned_state.msgpack))
        block = self._schema["resources"][request.type_name]
        whole = filled(block, planned, partial(placeholder, of=_name(request.type_name, planned)))
        return pb.ApplyResourceChange.Response(new_state=_value(whole))

    def ReadDataSource(self, request: Any, context: Any) -> Any:
        config = without_unknown(decoded(request.config.msgpack))
        values = config | DATA.get(request.type_name, lambda config: {})(config)
        block = self._schema["data"][request.type_name]
        whole = filled(block, values, partial(placeholder, of=request.type_name))
        return pb.ReadDataSource.Response(state=_value(whole))


def _name(type_name: str, values: dict[str, Any] | None) -> str:
    """Return a resource's own name, or its type."""
    names = ("name", "account_id", "repository_id", "secret_id", "gateway_id", "api_id", "display_name")
    return next((str(values[key]) for key in names if values and values.get(key)), type_name)


def _email(account: dict[str, Any], project: str | None) -> dict[str, Any]:
    """Return the values of a service account that are known before apply."""
    if not isinstance(account["account_id"], str) or project is None:
        return {}
    email = f"{account['account_id']}@{account.get('project') or project}.iam.gserviceaccount.com"
    return {"email": email, "member": f"serviceAccount:{email}"}


def _schema(block: dict[str, Any]) -> Any:
    return pb.Schema(version=0, block=_block(block))


def _block(block: dict[str, Any]) -> Any:
    attributes = [
        pb.Schema.Attribute(
            name=name,
            type=json.dumps(attribute["type"]).encode(),
            **{flag: attribute.get(flag, False) for flag in ("required", "optional", "computed")},
        )
        for name, attribute in sorted(block["attributes"].items())
    ]
    nested = [
        pb.Schema.NestedBlock(
            type_name=name,
            block=_block(inner["block"]),
            nesting=NESTING[inner["nesting"]],
            min_items=inner["min"],
            max_items=inner["max"],
        )
        for name, inner in sorted(block["blocks"].items())
    ]
    return pb.Schema.Block(attributes=attributes, block_types=nested)


def _value(value: Any) -> Any:
    return pb.DynamicValue(msgpack=encoded(value))


def _diagnostic(path: tuple[str | int, ...], text: str) -> Any:
    step = pb.AttributePath.Step
    steps = [step(attribute_name=part) if isinstance(part, str) else step(element_key_int=part) for part in path]
    return pb.Diagnostic(
        severity=pb.Diagnostic.ERROR, summary=text, detail=text, attribute=pb.AttributePath(steps=steps)
    )


def _serve_all(schemas: Mapping[str, str]) -> None:
    """Serve providers by their names in the registry until stdin ends.

    Prints first how Terraform finds them, in the format of TF_REATTACH_PROVIDERS: one process serves many runs, none of
    which has to start its own. Each line of stdin is the folder that Terraform runs in next; a provider that Terraform
    starts itself has it as working directory.
    """
    reattach, servers = {}, []
    for name, schema in schemas.items():
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        rpc.add_ProviderServicer_to_server(StandIn(_read(schema)), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)  # a server without references stops
        address = {"Network": "tcp", "String": f"127.0.0.1:{port}"}
        reattach[name] = {"Protocol": "grpc", "ProtocolVersion": 6, "Pid": os.getpid(), "Test": True, "Addr": address}
    print(json.dumps(reattach), flush=True)
    for folder in sys.stdin:
        os.chdir(folder.rstrip("\n"))
        print("entered", flush=True)


def _read(schema: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(schema).read_text())
    return read


if __name__ == "__main__":
    if "=" in sys.argv[1]:
        _serve_all(dict(argument.split("=", 1) for argument in sys.argv[1:]))
    else:
        # The library serves providers of its own kind; ours implements the protocol itself.
        tf.provider.ProviderServicer = StandIn
        tf.runner.run_provider(_read(sys.argv[1]), argv=[sys.argv[0]])
