from __future__ import annotations

import gc
import os
import resource
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes import World

if TYPE_CHECKING:
    from tests.emulators.google import Emulators

# Tiny models gain nothing from more threads, and threads that wait for each other take CPU time from other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The command line shows times of this machine's time zone.
os.environ["TZ"] = "UTC"
time.tzset()

# No deadline: the time of an example depends on the load of the machine, not on the code alone.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

GCP = pytest.param("gcp", marks=pytest.mark.emulators)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name files among parameters by their argument, and not by their bytes.

    The workers of a run have to collect the same names, and some writers put the time into their files. Returns None
    for pytest's own names.
    """
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def long_lived_objects_are_frozen() -> None:
    """Take modules and collected tests out of full garbage collections.

    Each training begins with one (accelerate's `free_memory`), which otherwise takes a third of a tiny training's time.
    """
    from trainer.process import imports

    gc.collect()
    imports.freeze()


@pytest.fixture(scope="session")
def process_ends() -> Iterator[list[str]]:
    """Yield the stacks of calls of `os._exit`, which do not end this process."""
    stacks, own_pid, end_process = list[str](), os.getpid(), os._exit

    def record(code: int) -> NoReturn:
        if os.getpid() != own_pid:  # a forked process
            end_process(code)
        stacks.append("".join(traceback.format_stack()))
        raise SystemExit(code)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "_exit", record)
        yield stacks


@pytest.fixture(autouse=True)
def no_test_ends_this_process(process_ends: list[str]) -> Iterator[None]:
    """Fail a test whose code would have ended the whole run.

    A trainer that lost its job ends its process, for instance.
    """
    yield
    stacks = process_ends.copy()
    process_ends.clear()
    assert not stacks, "os._exit was called:\n" + "\n".join(stacks)


@pytest.fixture(autouse=True)
def limits_of_this_process_stay() -> Iterator[None]:
    """Fail a test after which a limit of the process is another one.

    A limit of CPU time that a rendering leaves would kill the process in a later test.
    """
    kinds = (resource.RLIMIT_CPU, resource.RLIMIT_AS)
    before = [resource.getrlimit(kind) for kind in kinds]
    yield
    after = [resource.getrlimit(kind) for kind in kinds]
    for kind, limit in zip(kinds, before, strict=True):
        resource.setrlimit(kind, limit)
    assert after == before


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "home")


@pytest.fixture(scope="session")
def emulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulators]:
    """Yield the emulators of Google Cloud services for the session.

    They are Firestore, Pub/Sub and Cloud Storage. Skips the tests where the Google Cloud SDK is not installed.
    """
    from tests.emulators.cloud import environment_with
    from tests.emulators.google import Emulators
    from tests.emulators.sdk import NoEmulators

    try:
        emulators = Emulators(tmp_path_factory.mktemp("emulators"))
    except NoEmulators as error:
        pytest.skip(str(error))
    try:
        with environment_with(emulators.environment):
            yield emulators
            # To a server that has stopped, Pub/Sub pushes again without end.
            assert not emulators.push_subscriptions()
    finally:
        emulators.stop()


@pytest.fixture(params=["embedded", GCP])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Yield a world on each backend, for tests of what the ports promise."""
    if request.param == "embedded":
        yield World(tmp_path / "home")
        return
    from tests.emulators.world import GcpWorld

    gcp_world = GcpWorld(tmp_path / "home", request.getfixturevalue("emulators"))
    yield gcp_world
    gcp_world.stop()


@pytest.fixture
def composing_needs_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let composing of a missing object answer 404, as Cloud Storage does.

    The emulator answers 500.
    """
    from google.api_core.exceptions import InternalServerError, NotFound
    from google.cloud import storage

    compose = storage.Blob.compose

    def composing(target: storage.Blob, sources: Sequence[storage.Blob], **options: Any) -> None:
        try:
            compose(target, sources, **options | {"retry": None})
        except InternalServerError:
            for blob in sources:
                if not blob.exists():
                    raise NotFound(f"there is no {blob.name}") from None  # type: ignore[no-untyped-call]
            compose(target, sources, **options)

    monkeypatch.setattr(storage.Blob, "compose", composing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skipped test as failed under GEMTUNE_TESTS_MAY_SKIP=no.

    Also replaces broken Unicode in captured output, which tests of broken Unicode log: pytest-xdist sends reports
    between processes as UTF-8, and one that cannot be encoded would end the whole run.
    """
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("GEMTUNE_TESTS_MAY_SKIP") == "no":
        report.outcome = "failed"
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Print the memory of the machine when a test process has died.

    The kernel kills one where memory ends, without a message of the process itself.
    """
    if error is None:
        return
    memory = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith(("MemAv", "Shmem:"))]
    killed = [line for line in Path("/proc/vmstat").read_text().splitlines() if line.startswith("oom_kill ")]
    print(f"\n{node.gateway.id} died; afterwards: {'; '.join([*memory, *killed])}")
