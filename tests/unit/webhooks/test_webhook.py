"""Webhooks: signed as the standard says, to public addresses only, and only to the one that was looked at."""

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
    """Answers with `status` and remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, str], bytes]] = []
        self.status, self.headers = 204, {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.heard.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
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
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_the_standards_own_verifier_takes_a_signature_and_refuses_a_changed_body() -> None:
    key = signing.KEY_PREFIX + base64.b64encode(bytes(32)).decode()
    body = json.dumps({"type": "job_completed", "text": "ü"}).encode()
    headers = dict(signing.signed_headers(key, event_id="training_x_5", at=datetime.now(UTC), body=body))
    assert Webhook(key).verify(body, headers) == json.loads(body)
    for broken in ({"webhook-id": "training_x_6"}, {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(key).verify(body, headers | broken)
    with pytest.raises(WebhookVerificationError):
        Webhook(key).verify(body + b" ", headers)


def test_the_key_is_made_once_and_stays(world: World) -> None:
    key = signing.key(world.services.secrets)
    assert key.startswith("whsec_")
    assert len(base64.b64decode(key.removeprefix("whsec_"))) == 32
    assert signing.key(world.services.secrets) == key


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook",
        "https://example.com:8443/a?b=c",
        f"https://{PUBLIC}/x",
        "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/x",
    ],
)
def test_what_the_internet_knows_is_welcome(url: str) -> None:
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
def test_what_is_inside_a_network_or_no_https_is_refused(url: str, code: str) -> None:
    problem = destinations.problem_of(url, to_loopback=False)
    assert problem is not None
    assert problem.code == code
    assert "user:" not in str(problem.to_json())


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/x", "http://localhost/", "https://[::1]:1/"])
def test_a_switch_allows_the_users_own_machine_and_nothing_else(url: str) -> None:
    assert destinations.problem_of(url, to_loopback=True) is None
    assert destinations.problem_of("http://10.0.0.1/", to_loopback=True) is not None
    assert destinations.problem_of("http://example.com/", to_loopback=True) is not None


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """getaddrinfo gives these addresses; returns the names that were asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr("gemtune.webhooks.pinned_http.socket.getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["10.1.2.3"], ["169.254.169.254"], [PUBLIC, "192.168.0.1"], ["::ffff:127.0.0.1"]]
)
def test_a_name_that_leads_inside_is_not_called(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver, addresses: list[str]
) -> None:
    resolving(monkeypatch, *addresses)
    with pytest.raises(AddressNotAllowed):
        post(f"https://rebinding.example:{receiver.port}/", b"{}", {}, to_loopback=True)
    assert receiver.heard == []


def test_a_number_that_means_this_machine_is_seen_through(receiver: Receiver) -> None:
    for host in ("2130706433", "0x7f000001", "127.1"):
        with pytest.raises(AddressNotAllowed):
            post(f"https://{host}:{receiver.port}/", b"{}", {}, to_loopback=False)


def test_the_connection_goes_to_the_address_that_was_looked_at_under_the_names_certificate(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver, tmp_path: Any
) -> None:
    authority = trustme.CA()
    receiver.use_tls(authority.issue_cert("hooks.example.com"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr("gemtune.webhooks.pinned_http.is_public", lambda address: True)
    asked = resolving(monkeypatch, "127.0.0.1")
    status = post(f"https://hooks.example.com:{receiver.port}/a/b?c=d", b"{}", {"webhook-id": "1"}, to_loopback=False)
    assert status == 204
    assert asked.count("hooks.example.com") == 1  # a second look-up could lead elsewhere
    ((path, headers, body),) = receiver.heard
    assert (path, headers["host"], body) == ("/a/b?c=d", f"hooks.example.com:{receiver.port}", b"{}")
    with pytest.raises(ssl.SSLError):
        post(f"https://other.example.com:{receiver.port}/", b"{}", {}, to_loopback=False)
    assert len(receiver.heard) == 1


def test_a_redirect_is_an_answer_and_not_followed(receiver: Receiver) -> None:
    receiver.status, receiver.headers = 302, {"Location": "http://169.254.169.254/"}
    assert post(f"http://127.0.0.1:{receiver.port}/", b"{}", {}, to_loopback=True) == 302
    assert len(receiver.heard) == 1


@pytest.mark.parametrize(
    ("scheme", "drop"), [("http", b"HTTP/1.1 100 Continue\r\n\r\n"), ("https", b"\x16\x03\x03\x00\x01\x02")]
)
def test_a_receiver_that_drips_its_answer_is_given_up(
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


def test_of_several_addresses_one_that_answers_will_do(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    resolving(monkeypatch, "127.0.0.2", "127.0.0.1")
    assert post(f"http://localhost:{receiver.port}/", b"{}", {}, to_loopback=True) == 204


def test_a_host_of_many_addresses_that_do_not_answer_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, *["127.0.0.1"] * 100)
    waited: list[float] = []
    monkeypatch.setattr("gemtune.webhooks.pinned_http.time.monotonic", lambda: sum(waited))

    def silent(address: Any, timeout: float) -> socket.socket:
        waited.append(timeout)
        raise TimeoutError

    monkeypatch.setattr("gemtune.webhooks.pinned_http.socket.create_connection", silent)
    with pytest.raises(TimeoutError):
        post("http://localhost/", b"{}", {}, to_loopback=True)
    assert sum(waited) <= 20
