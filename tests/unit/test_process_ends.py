"""Code that ends its process fails its test, and not the whole run."""

from __future__ import annotations

import os
import threading

import pytest


def test_an_end_of_the_process_is_recorded(process_ends: list[str]) -> None:
    def end_at_once() -> None:
        with pytest.raises(SystemExit):
            os._exit(0)

    thread = threading.Thread(target=end_at_once)
    thread.start()
    thread.join()
    assert [stack.count("in end_at_once") for stack in process_ends] == [1]
    process_ends.clear()


def test_a_forked_process_ends() -> None:
    child = os.fork()
    if child == 0:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
