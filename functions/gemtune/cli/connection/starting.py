"""Start of a service on this machine, for commands that need one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click

from gemtune.cli.connection import Connection
from gemtune.cli.connection.text import echo_message
from gemtune.client.errors import Unreachable
from gemtune.settings import Settings

START_SECONDS = 120.0
UP = ["-P", "-c", "from gemtune.cli import main; main()", "up"]


def offer_service(connection: Connection) -> None:
    """Offer to start a service if none answers at an address of this machine.

    Without a terminal nothing is asked, and the command fails by itself.
    """
    port = connection.local_port
    if port is None or not is_interactive():
        return
    try:
        connection.ask("GET", "/health")
        return
    except Unreachable:
        if not click.confirm(f"No service answers at {connection.url}. Start one on this machine?", True, err=True):
            return
    settings = Settings.from_environment()
    log = log_file(settings.home)
    with log.open("ab") as output:
        command = [sys.executable, *UP, "--port", str(port)]
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until_healthy(connection, server, log)
    except BaseException:  # Ctrl-C as well: nobody would know of the server
        server.terminate()
        server.wait()
        raise
    echo_message(f"Started a service, with its log in {log}. It goes on after this command; `gemtune down` stops it.")


confirm_option = click.option("--yes", "-y", is_flag=True, help="Do not ask first, as in a terminal.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask a question in a terminal, and end the command if the answer is no."""
    if not yes and is_interactive():
        click.confirm(question, abort=True, err=True)


def is_interactive() -> bool:
    """Return whether a person can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def log_file(home: Path) -> Path:
    """Return the log of a service that a command starts; create its folder."""
    home.mkdir(parents=True, exist_ok=True)
    return home / "server.log"


def wait_until_healthy(connection: Connection, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers, or fail with the end of its log."""
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            connection.ask("GET", "/health")
            return
        except Unreachable:
            time.sleep(0.1)
    end = log.read_bytes()[-2000:].decode(errors="replace")
    raise click.ClickException(f"the service did not start; the end of its log:\n{end}")
