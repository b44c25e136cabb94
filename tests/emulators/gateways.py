"""Addresses of the emulators for one identity, which record its calls.

On Google Cloud a call carries its account's token, which emulators ignore. Here each account has addresses of its own:
one port for gRPC services, one for HTTP services. Both forward every call and note who made it.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import grpc

# Headers that concern one connection, and length and host, which the forwarded call sets anew.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "accept-encoding"}
NO_LIMITS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# A stream such as StreamingPull keeps a thread as long as it is open.
GRPC_THREADS = 32


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an identity.

    method: `/google.pubsub.v1.Publisher/Publish`, or an HTTP method. path: of the URL, as sent; empty for gRPC.
    query: of the URL. message: the first message of a gRPC call; for HTTP, the body. overwrites: whether an upload
    replaced an object.
    """

    who: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    message: bytes
    overwrites: bool = False

    def uploaded_name(self) -> str:
        """Return the name of the object that an upload makes.

        It is in the query, or in the first JSON of the body:
        https://cloud.google.com/storage/docs/json_api/v1/objects/insert
        """
        name = dict(self.query).get("name")
        if name is None:
            text = self.message.decode(errors="replace")
            name = json.JSONDecoder().raw_decode(text, text.index("{"))[0]["name"]
        return str(name)


class Gateways:
    """One gateway for each identity, with the calls of all.

    grpc_services: prefix of the services' full names -> address. http_services: prefix of the path -> address; the
    longest prefix applies.
    """

    def __init__(self, grpc_services: Mapping[str, str], http_services: Mapping[str, str]):
        self.calls: list[Call] = []
        self._channels: dict[str, grpc.Channel] = {}
        for prefix, address in grpc_services.items():
            self.serve_grpc(prefix, address)
        self._http_services = dict(sorted(http_services.items(), key=lambda service: -len(service[0])))
        self._grpc_servers: list[grpc.Server] = []
        self._http_servers: list[ThreadingHTTPServer] = []

    def stop(self) -> None:
        for server in self._http_servers:
            server.shutdown()
            server.server_close()
        for stopped in [server.stop(None) for server in self._grpc_servers]:
            stopped.wait()
        for channel in self._channels.values():
            channel.close()

    def serve_grpc(self, prefix: str, address: str) -> None:
        """Forward gRPC services whose names begin with a prefix."""
        self._channels[prefix] = grpc.insecure_channel(address, NO_LIMITS)

    def open(self, who: str) -> tuple[str, str]:
        """Open the addresses of an identity, for gRPC and for HTTP.

        Both are `host:port`.
        """
        server = grpc.server(futures.ThreadPoolExecutor(GRPC_THREADS), options=NO_LIMITS)
        server.add_generic_rpc_handlers((_Forwarder(who, self),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._grpc_servers.append(server)
        http_server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(who, self))
        http_server.daemon_threads = True
        threading.Thread(target=http_server.serve_forever, args=(0.02,), daemon=True).start()
        self._http_servers.append(http_server)
        return f"127.0.0.1:{port}", f"127.0.0.1:{http_server.server_address[1]}"

    def channel_of(self, method: str) -> grpc.Channel:
        return next(channel for prefix, channel in self._channels.items() if method.startswith(f"/{prefix}"))

    def service_of(self, path: str) -> str:
        return next(address for prefix, address in self._http_services.items() if path.startswith(prefix))


class _Forwarder(grpc.GenericRpcHandler):
    """Forwards every method, as a stream of bytes in both directions."""

    def __init__(self, who: str, gateways: Gateways):
        self._who, self._gateways = who, gateways

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def forward(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            return self._forward(details.method, requests, context)

        return grpc.stream_stream_rpc_method_handler(forward)

    def _forward(self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        call = self._gateways.channel_of(method).stream_stream(method)
        answers = call(
            self._recorded(method, requests),
            metadata=_kept(context.invocation_metadata()),
            timeout=context.time_remaining(),
        )
        context.add_callback(answers.cancel)
        try:
            yield from answers
        except grpc.RpcError as error:
            context.set_trailing_metadata(_kept(error.trailing_metadata() or ()))
            context.abort(error.code(), error.details())

    def _recorded(self, method: str, requests: Iterator[bytes]) -> Iterator[bytes]:
        for number, message in enumerate(requests):
            if number == 0:
                self._gateways.calls.append(Call(self._who, method, "", (), message))
            yield message


def _kept(metadata: Any) -> list[tuple[str, Any]]:
    """Return the metadata of the call itself, without gRPC's own."""
    return [(key, value) for key, value in metadata if not key.startswith("grpc-") and key != "user-agent"]


def _handler(who: str, gateways: Gateways) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            target = gateways.service_of(self.path)
            parts = urlsplit(self.path)
            query = tuple(parse_qsl(parts.query, keep_blank_values=True))
            call = Call(who, self.command, parts.path, query, body)
            gateways.calls.append(replace(call, overwrites=_overwrites(target, call)))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            status, answered, content = request_of(target, self.command, self.path, body, headers)
            self.send_response(status)
            # Links to results and to parts of an upload lead to this gateway, too.
            gateway = "{}:{}".format(*self.server.server_address[:2])
            for name, value in answered:
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value.replace(target, gateway))
            if any(name.lower() == "content-type" and "json" in value for name, value in answered):
                content = content.replace(target.encode(), gateway.encode())
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _reply

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


def _overwrites(target: str, call: Call) -> bool:
    """Return whether a call is an upload that would replace an object."""
    is_upload = call.method == "POST" and call.path.startswith("/upload/storage/v1/b/")
    if not is_upload or dict(call.query).get("ifGenerationMatch") == "0":
        return False
    address = f"{call.path.removeprefix('/upload')}/{quote(call.uploaded_name(), safe='')}"
    return request_of(target, "GET", address, b"", {})[0] == 200


def request_of(
    target: str, method: str, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection(target, timeout=240)
    try:
        connection.request(method, path, body or None, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()
