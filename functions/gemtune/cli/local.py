"""Commands that work on this machine's GEMTUNE_HOME: serve, publish, listen, keep a secret, run the demo."""

from __future__ import annotations

import json
import re
import sys

import click

from gemtune.bootstrap import services
from gemtune.cli.connection import REFUSED, Connection, print_problems
from gemtune.errors import BadSetting
from gemtune.log_lines import log_to_stderr

# How long `listen` waits for a message before it asks again.
WAIT_SECONDS = 10.0


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Instead of $PORT.")
def up(port: int | None) -> None:
    """Serve on this machine, until Ctrl-C."""
    from gemtune.local_server import server

    if services().settings.on_gcp:
        raise BadSetting("GEMTUNE_BACKEND is gcp, which Google serves", hint="unset it to serve on this machine")
    log_to_stderr()
    server.serve(port=port)


@click.command()
@click.argument("file")
@click.option("--idempotency-key", metavar="KEY", help="The same key and request again are the same job.")
@click.pass_obj
def publish(connection: Connection, file: str, idempotency_key: str | None) -> None:
    """Publish the request in FILE (JSON or YAML, - for standard input) to job-requests, server or not."""
    from gemtune.cli import request_file
    from gemtune.jobs.sources import Source
    from gemtune.ports import Topic
    from gemtune.request import parsing

    document = json.dumps(request_file.read(file)).encode()
    problems = parsing.read(document, Source.PUBSUB).problems
    if any(problem.code == "secret_in_the_open" for problem in problems):
        # A message is stored before anyone reads it, so a token must not get into one.
        print_problems([problem.to_json() for problem in problems])
        raise click.exceptions.Exit(REFUSED)
    attributes = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    message_id = services().bus.publish(Topic.JOB_REQUESTS, document, attributes=attributes)
    if not connection.show({"message_id": message_id}):
        click.echo(f"published as message {message_id}; `gemtune jobs` shows what becomes of it")


@click.command()
@click.option("--subscription", default="cli", show_default=True, help="Its name; it keeps what nobody has read yet.")
@click.option("--once", is_flag=True, help="Print what there is and end.")
def listen(subscription: str, once: bool) -> None:
    """Print every message on job-status, one JSON object a line. A message that was printed is acknowledged."""
    from gemtune.ports import Topic

    bus = services().bus
    try:
        bus.subscribe(subscription, Topic.JOB_STATUS)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    while True:
        received = bus.pull(subscription, 100, wait_seconds=0.0 if once else WAIT_SECONDS)
        for message in received:
            click.echo(message.message.decode())
            sys.stdout.flush()
            bus.ack(subscription, [message.ack_id])
        if once and not received:
            return


@click.command()
@click.argument("name")
def secret(name: str) -> None:
    """Keep a token under NAME; requests refer to it as secret:gemtune-user-NAME. Asks for it, or reads a pipe."""
    from gemtune.jobs.secret_names import REFERENCE, USER_PREFIX

    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise click.UsageError("NAME has letters, digits, '_' and '-' only, at most 64")
    piped = not sys.stdin.isatty()
    value = sys.stdin.readline().strip() if piped else click.prompt("value", hide_input=True)
    if not value:
        raise click.UsageError("the value is empty")
    services().secrets.create(USER_PREFIX + name, value, ttl=None)
    click.echo(f"kept; refer to it as {REFERENCE}{USER_PREFIX}{name}")


@click.command("webhook-key")
def webhook_key() -> None:
    """Show the key that webhooks are signed with; whoever verifies them needs it."""
    from gemtune.webhooks import signing

    click.echo(signing.service_key(services().secrets))


@click.command()
@click.option("--examples", type=click.Path(file_okay=False), default="examples", show_default=True)
def demo(examples: str) -> None:
    """Fine-tune the real Gemma 3 270M on this machine, start to end."""
    from gemtune.cli.demo import run

    raise click.exceptions.Exit(run(examples))


COMMANDS = {c.name: c for c in (up, publish, listen, secret, webhook_key, demo)}
