"""Signals to stop end the wait, whichever thread the system delivers them to."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import signal, sys, threading, time
from gemtune.local_server.stop_signals import stop_signals

signal.signal(signal.SIGUSR1, lambda *_: None)

def thread():
    if sys.argv[1] == "sleeping":
        while b" S " not in open(f"/proc/self/task/{threading.main_thread().native_id}/stat", "rb").read():
            pass
    signal.pthread_kill(threading.get_ident(), getattr(signal, sys.argv[2]))
    if sys.argv[1] == "before":
        sent.set()
    time.sleep(600)

sent = threading.Event()
with stop_signals() as wait:
    threading.Thread(target=thread, daemon=True).start()
    if sys.argv[1] == "before":
        sent.wait()
    print("waits", flush=True)
    wait()
    print("stops", flush=True)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("when", ["before", "sleeping"])
def test_a_signal_that_another_thread_gets_ends_the_wait(when: str, name: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, when, name], capture_output=True, timeout=240)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"waits\nstops\n", b"")


def test_other_signals_do_not_end_the_wait() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, "sleeping", "SIGUSR1"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waits\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.terminate()
        assert process.stdout.read() == b"stops\n"
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
