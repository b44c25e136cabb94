"""Commands that use the backend itself: up, down, publish, listen, demo."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import click

from gemtune.bootstrap import services
from gemtune.cli.connection import INTERRUPTED, Connection
from gemtune.cli.connection.text import echo_message
from gemtune.errors import BadSetting
from gemtune.log_lines import log_to_stderr

# Seconds that one pull of `listen` waits for a message.
WAIT_SECONDS = 10.0
# Seconds between looks at a service that is stopping.
POLL_SECONDS = 0.05


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on (default: $PORT, or 8080).")
def up(port: int | None) -> None:
    """Start the service on this machine and run it until Ctrl-C."""
    from gemtune.local_server import server

    if services().settings.on_gcp:
        message = "GEMTUNE_BACKEND is gcp, but `gemtune up` runs the embedded backend"
        raise BadSetting(message, hint="unset GEMTUNE_BACKEND to start a service on this machine")
    log_to_stderr()
    server.serve(port=port)


@click.command()
def down() -> None:
    """Stop the service on this machine that uses GEMTUNE_HOME.

    A running training writes a checkpoint first. Unfinished jobs continue at the next start.
    """
    from gemtune.local_server import home_lock

    home = services().settings.home
    process = home_lock.holder(home)
    if process is None:
        click.echo(f"No service uses {home}")
        return
    try:
        os.kill(process, signal.SIGTERM)
    except OSError as error:
        message = f"the service of {home} is process {process}, which cannot be stopped: {error.strerror}"
        raise click.ClickException(f"{message}; stop it as the user, and in the container, that started it") from None
    echo_message(f"Stopping the service of {home} (process {process}) …")
    while home_lock.holder(home) == process:
        time.sleep(POLL_SECONDS)
    click.echo("Stopped; unfinished jobs continue at the next start")


@click.command()
@click.argument("file")
@click.option("--idempotency-key", metavar="KEY", help="Reuse the job created earlier with the same KEY and request.")
@click.pass_obj
def publish(connection: Connection, file: str, idempotency_key: str | None) -> None:
    """Publish a training request as a message to job-requests.

    FILE is a JSON or YAML file, or - for standard input. The service does not have to be running. A request that the
    service would reject is not published, because nobody would be told.
    """
    from gemtune.cli.request import file as request_file
    from gemtune.client.request import make_paths_absolute
    from gemtune.jobs.sources import Source
    from gemtune.ports import Topic
    from gemtune.request import parsing

    request = request_file.read(file)
    make_paths_absolute(request)
    document = json.dumps(request).encode()
    reading = parsing.read(document, Source.PUBSUB)
    if reading.request is not None and not services().settings.on_gcp:  # a deployed service has facts of its own
        reading = services().submit.check(reading)
    reading.require_valid()
    attributes = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    message_id = services().bus.publish(Topic.JOB_REQUESTS, document, attributes=attributes)
    if not connection.print_if_json({"message_id": message_id}):
        click.echo(f"Published message {message_id}. Run `gemtune jobs` to see the job.")


@click.command()
@click.option("--subscription", default="cli", show_default=True, help="Subscription to read; it stores new messages.")
@click.option("--once", is_flag=True, help="Print the waiting messages and exit.")
def listen(subscription: str, once: bool) -> None:
    """Print the messages on job-status, one JSON object per line.

    Printed messages are acknowledged, so that they are not printed again.
    """
    from gemtune.ports import Topic

    bus = services().bus
    try:
        bus.subscribe(subscription, Topic.JOB_STATUS)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        while True:
            messages = bus.pull(subscription, 100, wait_seconds=0.0 if once else WAIT_SECONDS)
            for message in messages:
                click.echo(message.message.decode())
                sys.stdout.flush()
                bus.ack(subscription, [message.ack_id])
            if once and not messages:
                return
    except KeyboardInterrupt:  # unread messages stay on the subscription
        raise click.exceptions.Exit(INTERRUPTED) from None


@click.command("webhook-key")
@click.pass_obj
def webhook_key(connection: Connection) -> None:
    """Print the key that verifies this service's webhooks."""
    from gemtune.webhooks import signing

    key = signing.service_key(services().secrets)
    if not connection.print_if_json({"webhook_key": key}):
        click.echo(key)


@click.command()
@click.option(
    "--examples",
    type=click.Path(file_okay=False),
    default="examples",
    show_default=True,
    help="Folder `examples` of a checkout.",
)
def demo(examples: str) -> None:
    """Fine-tune the real Gemma 3 270M on this machine."""
    from gemtune.cli.workstation.demo import run

    raise click.exceptions.Exit(run(examples))


COMMANDS = {c.name: c for c in (up, down, publish, listen, webhook_key, demo)}
