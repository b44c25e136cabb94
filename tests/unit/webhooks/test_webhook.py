"""Webhooks: signatures, allowed addresses, and connections pinned to them."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gemtune.errors import AddressNotAllowed
from gemtune.webhooks import destinations, signing
from gemtune.webhooks.pinned_http import post
from tests.fakes import World

PUBLIC = "93.184.215.14"


class Receiver:
    """HTTP server that answers with `status` and records the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.status, self.headers = 204, {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def use_tls(self, certificate: trustme.LeafCert) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    http_receiver = Receiver()
    yield http_receiver
    http_receiver.server.shutdown()
    http_receiver.server.server_close()


def test_the_reference_verifier_accepts_a_signature_and_refuses_a_changed_body() -> None:
    key = signing.KEY_PREFIX + base64.b64encode(bytes(32)).decode()
    body = json.dumps({"type": "job_completed", "text": "ü"}).encode()
    headers = dict(signing.signed_headers(key, event_id="training_x_5", at=datetime.now(UTC), body=body))
    assert Webhook(key).verify(body, headers) == json.loads(body)
    for broken in ({"webhook-id": "training_x_6"}, {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(key).verify(body, headers | broken)
    with pytest.raises(WebhookVerificationError):
        Webhook(key).verify(body + b" ", headers)


def test_the_key_is_generated_once(world: World) -> None:
    key = signing.service_key(world.services.secrets)
    assert key.startswith("whsec_")
    assert len(base64.b64decode(key.removeprefix("whsec_"))) == 32
    assert signing.service_key(world.services.secrets) == key


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook",
        "https://example.com:8443/a?b=c",
        f"https://{PUBLIC}/x",
        "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/x",
    ],
)
def test_public_https_addresses_are_accepted(url: str) -> None:
    assert destinations.problem_of(url, to_loopback=False) is None


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://example.com/", "bad_webhook_url"),
        ("ftp://example.com/", "bad_webhook_url"),
        ("example.com/hook", "bad_webhook_url"),
        ("https://", "bad_webhook_url"),
        ("", "bad_webhook_url"),
        ("https://exa mple.com/", "bad_webhook_url"),
        ("https://example.com:x/", "bad_webhook_url"),
        ("https://example.com\\@127.0.0.1/", "bad_webhook_url"),
        ("https://münchen.example/", "bad_webhook_url"),
        ("https://user:pass@example.com/", "secret_in_the_open"),
        ("https://token@example.com/", "secret_in_the_open"),
        ("https://localhost/", "bad_webhook_url"),
        ("https://127.0.0.1/", "bad_webhook_url"),
        ("https://127.9.9.9/", "bad_webhook_url"),
        ("https://[::1]/", "bad_webhook_url"),
        ("https://10.0.0.1/", "bad_webhook_url"),
        ("https://172.16.3.4/", "bad_webhook_url"),
        ("https://192.168.1.1/", "bad_webhook_url"),
        ("https://169.254.169.254/", "bad_webhook_url"),
        ("https://metadata.google.internal/", "bad_webhook_url"),
        ("https://printer.local/", "bad_webhook_url"),
        ("https://intranet/", "bad_webhook_url"),
        ("https://0.0.0.0/", "bad_webhook_url"),
        ("https://[fe80::1]/", "bad_webhook_url"),
        ("https://[fd20:ce::254]/", "bad_webhook_url"),
        ("https://[::ffff:127.0.0.1]/", "bad_webhook_url"),
        ("https://[::ffff:10.0.0.1]/", "bad_webhook_url"),
        ("https://[64:ff9b::a9fe:a9fe]/", "bad_webhook_url"),
        ("https://[2002:7f00:1::]/", "bad_webhook_url"),
        ("https://224.0.0.1/", "bad_webhook_url"),
        ("https://100.64.0.1/", "bad_webhook_url"),
        ("https://255.255.255.255/", "bad_webhook_url"),
        ("https://[fec0::1]/", "bad_webhook_url"),
        ("https://192.0.0.192/", "bad_webhook_url"),
        ("https://168.63.129.16/", "bad_webhook_url"),
        ("https://localhost./", "bad_webhook_url"),
        ("https://metadata.google.internal./", "bad_webhook_url"),
        ("https://127.1/", "bad_webhook_url"),
        ("https://a..b/", "bad_webhook_url"),
        ("https://2130706433/", "bad_webhook_url"),
        ("https://0x7f000001/", "bad_webhook_url"),
        ("https://-a.example/", "bad_webhook_url"),
    ],
)
def test_private_addresses_and_anything_but_https_are_refused(url: str, code: str) -> None:
    problem = destinations.problem_of(url, to_loopback=False)
    assert problem is not None
    assert problem.code == code
    assert "user:" not in str(problem.to_json())


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/x", "http://localhost/", "https://[::1]:1/"])
def test_a_switch_allows_loopback_addresses_and_no_others(url: str) -> None:
    assert destinations.problem_of(url, to_loopback=True) is None
    assert destinations.problem_of("http://10.0.0.1/", to_loopback=True) is not None
    assert destinations.problem_of("http://example.com/", to_loopback=True) is not None


def fake_dns(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Make getaddrinfo return these addresses; return the names looked up."""
    looked_up: list[str] = []

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr("gemtune.webhooks.pinned_http.socket.getaddrinfo", getaddrinfo)
    return looked_up


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["10.1.2.3"], ["169.254.169.254"], [PUBLIC, "192.168.0.1"], ["::ffff:127.0.0.1"]]
)
def test_a_name_that_resolves_to_a_private_address_is_not_called(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver, addresses: list[str]
) -> None:
    fake_dns(monkeypatch, *addresses)
    with pytest.raises(AddressNotAllowed):
        post(f"https://rebinding.example:{receiver.port}/", b"{}", {}, to_loopback=True)
    assert receiver.requests == []


def test_a_loopback_address_written_as_a_number_is_refused(receiver: Receiver) -> None:
    for host in ("2130706433", "0x7f000001", "127.1"):
        with pytest.raises(AddressNotAllowed):
            post(f"https://{host}:{receiver.port}/", b"{}", {}, to_loopback=False)


def test_the_connection_goes_to_the_checked_address_with_the_certificate_of_the_name(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver, tmp_path: Any
) -> None:
    authority = trustme.CA()
    receiver.use_tls(authority.issue_cert("hooks.example.com"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr("gemtune.webhooks.pinned_http.is_public", lambda address: True)
    looked_up = fake_dns(monkeypatch, "127.0.0.1")
    status = post(f"https://hooks.example.com:{receiver.port}/a/b?c=d", b"{}", {"webhook-id": "1"}, to_loopback=False)
    assert status == 204
    assert looked_up.count("hooks.example.com") == 1  # a second look-up could return another address
    ((path, headers, body),) = receiver.requests
    assert (path, headers["host"], body) == ("/a/b?c=d", f"hooks.example.com:{receiver.port}", b"{}")
    with pytest.raises(ssl.SSLError):
        post(f"https://other.example.com:{receiver.port}/", b"{}", {}, to_loopback=False)
    assert len(receiver.requests) == 1


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.status, receiver.headers = 302, {"Location": "http://169.254.169.254/"}
    assert post(f"http://127.0.0.1:{receiver.port}/", b"{}", {}, to_loopback=True) == 302
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("scheme", "drop"), [("http", b"HTTP/1.1 100 Continue\r\n\r\n"), ("https", b"\x16\x03\x03\x00\x01\x02")]
)
def test_a_receiver_that_answers_byte_by_byte_times_out(
    monkeypatch: pytest.MonkeyPatch, scheme: str, drop: bytes
) -> None:
    monkeypatch.setattr("gemtune.webhooks.pinned_http.TOTAL", 0.5)
    ended = threading.Event()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                while not ended.wait(0.1):
                    try:
                        connection.sendall(drop)
                    except OSError:
                        return

        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises((OSError, http.client.HTTPException)):
            post(f"{scheme}://127.0.0.1:{listening.getsockname()[1]}/", b"{}", {}, to_loopback=True)
        ended.set()


def test_the_next_address_is_tried_when_one_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    fake_dns(monkeypatch, "127.0.0.2", "127.0.0.1")
    assert post(f"http://localhost:{receiver.port}/", b"{}", {}, to_loopback=True) == 204


def test_a_host_with_many_silent_addresses_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_dns(monkeypatch, *["127.0.0.1"] * 100)
    waited: list[float] = []
    monkeypatch.setattr("gemtune.webhooks.pinned_http.time.monotonic", lambda: sum(waited))

    def silent(address: Any, timeout: float) -> socket.socket:
        waited.append(timeout)
        raise TimeoutError

    monkeypatch.setattr("gemtune.webhooks.pinned_http.socket.create_connection", silent)
    with pytest.raises(TimeoutError):
        post("http://localhost/", b"{}", {}, to_loopback=True)
    assert sum(waited) <= 20
