"""gRPC server for stand-ins of Google's services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import grpc

# method -> (handler, request type, response type); the types are proto-plus or plain protobuf
Methods = Mapping[str, tuple[Callable[[Any, grpc.ServicerContext], Any], Any, Any]]


def serve(service: str, methods: Methods) -> tuple[grpc.Server, str]:
    """Start a server for one service on 127.0.0.1; return it with its address."""
    server = grpc.server(futures.ThreadPoolExecutor(16))
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(call, _reader(request), _writer(response))
        for name, (call, request, response) in methods.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


def _reader(kind: Any) -> Callable[[bytes], Any]:
    return kind.deserialize if hasattr(kind, "deserialize") else kind.FromString


def _writer(kind: Any) -> Callable[[Any], bytes]:
    return kind.serialize if hasattr(kind, "serialize") else kind.SerializeToString
