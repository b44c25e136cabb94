"""The map of the source: which room may import which, and their state."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import house_rules
from tests.import_graph import Tree, read

ROOT = Path(__file__).parent.parent.parent.parent
PRODUCT = ("gemtune", "main", "trainer", "bench", "deploy", "docs", "examples")

# Rooms of the service and the rooms that they may import. Files directly in gemtune are rooms of their own.
SERVICE: Mapping[str, str] = {
    "clock": "",
    "environment": "",
    "error_codes": "",
    "methods": "",
    "process": "",
    "redaction": "",
    "errors": "redaction",
    "log_lines": "errors redaction",
    "families": "errors families.configs methods",
    "families.configs": "",
    "llama_cpp": "errors families families.configs",
    "object_name": "errors",
    "secret_name": "errors",
    "untrusted": "errors",
    "datasets": "untrusted",
    "datasets.files": "untrusted",
    "datasets.reading": "datasets untrusted",
    "datasets.tagged": "datasets datasets.reading untrusted",
    "datasets.exports": "datasets datasets.reading",
    "datasets.formats": "datasets datasets.exports datasets.reading datasets.tagged untrusted",
    "datasets.rl": "datasets datasets.formats datasets.reading datasets.tagged",
    "datasets.uploads": "errors",
    # The domain: no service, no handler, no port.
    "jobs": "errors jobs.parts object_name secret_name untrusted",
    "jobs.parts": "untrusted",
    "admission": "errors jobs jobs.parts machines untrusted",
    "machines": "errors families families.configs jobs jobs.parts methods",
    "request": "datasets datasets.files errors families jobs jobs.parts machines methods redaction request.matching "
    "untrusted",
    "request.matching": "",
    "request.uploads": "datasets.uploads errors object_name request untrusted",
    "checks": "datasets errors jobs jobs.parts methods request",
    "ports": "jobs jobs.parts",
    "settings": "errors llama_cpp machines untrusted",
    "webhooks": "errors ports",
    "training_files": "errors jobs jobs.parts ports untrusted",
    "request.rules": "datasets.formats datasets.rl errors families jobs llama_cpp machines redaction request "
    "secret_name webhooks",
    # Use cases use the ports and not their implementations.
    "services": "admission errors jobs jobs.parts machines object_name ports redaction request request.uploads "
    "services.acceptance services.budgets services.cleanup services.datasets services.planning untrusted webhooks",
    "services.cleanup": "errors jobs ports services.acceptance services.datasets",
    "services.datasets": "checks datasets datasets.files datasets.uploads errors jobs ports request request.rules "
    "request.uploads untrusted",
    "services.logs": "errors jobs ports",
    "services.acceptance": "datasets.files errors families jobs jobs.parts machines ports redaction request "
    "request.rules services.datasets untrusted",
    "services.budgets": "errors jobs machines ports untrusted",
    "services.planning": "datasets.files errors families jobs jobs.parts machines methods ports request untrusted",
    "embedded": "checks errors jobs jobs.parts object_name ports process redaction secret_name settings untrusted",
    "gcp.storage": "errors ports",
    "gcp": "errors gcp.storage jobs jobs.parts object_name ports redaction secret_name settings untrusted",
    # Only the wiring imports both backends.
    "backend": "clock embedded errors gcp jobs llama_cpp machines ports settings",
    "bootstrap": "backend families log_lines request services services.acceptance services.budgets "
    "services.cleanup services.datasets services.logs services.planning settings webhooks",
    "handlers.answers": "checks datasets.uploads jobs jobs.parts machines services.budgets services.datasets "
    "services.logs services.planning training_files",
    "handlers.description": "errors handlers.answers request untrusted",
    "handlers": "admission bootstrap checks datasets.files datasets.uploads errors handlers.answers "
    "handlers.description jobs jobs.parts machines methods ports redaction request request.uploads services "
    "services.acceptance services.budgets services.datasets services.logs services.planning training_files untrusted",
    "local_server.workflow_engine": "",
    "local_server": "bootstrap embedded errors handlers jobs local_server.workflow_engine machines ports process "
    "redaction services settings",
    "cli.request": "cli.connection client datasets.files errors jobs methods request request.uploads untrusted",
    # Contract and answers of the API, but nothing of the service itself.
    "client": "checks datasets.files datasets.formats datasets.reading datasets.rl datasets.uploads errors "
    "handlers.answers jobs jobs.parts object_name redaction request untrusted",
    "cli.connection": "client errors jobs jobs.parts settings",
    "cli.setup": "cli.connection client",
    "cli.workstation": "bootstrap cli.connection cli.request client errors jobs local_server log_lines ports process "
    "request settings webhooks",
    "cli.check": "bootstrap checks cli.connection cli.request client datasets.files errors jobs process request "
    "request.rules untrusted",
    "cli.answers": "cli.connection cli.request client datasets.files errors handlers.answers process request settings",
    "cli": "cli.answers cli.check cli.connection cli.request cli.setup cli.workstation client datasets.files "
    "errors handlers.answers jobs jobs.parts methods object_name settings",
}
# Parts of the service that the trainer may import: the domain, ports, and modules without a room.
SERVICE_FOR_TRAINER = (
    "checks datasets datasets.files datasets.formats datasets.reading datasets.rl datasets.uploads errors families "
    "families.configs jobs jobs.parts llama_cpp machines methods object_name ports process redaction request "
    "request.matching settings training_files untrusted"
)
# The trainer's rooms from the ground up: each may import those on lower floors.
FLOORS = (
    ("trainer.store",),
    ("trainer.dataset",),
    (
        "trainer",
        "trainer.context",
        "trainer.conversation",
        "trainer.process",
        "trainer.published",
        "trainer.unsloth_environment",
    ),
    ("trainer.base_model", "trainer.media", "trainer.new_tokens", "trainer.rows.numbers"),
    ("trainer.audio", "trainer.pictures"),
    ("trainer.rendering", "trainer.export.commands"),
    ("trainer.rows", "trainer.export", "trainer.hub"),
    ("trainer.gguf", "trainer.model.attention", "trainer.model.on_cpu", "trainer.splits"),
    ("trainer.certificate.files", "trainer.model"),
    ("trainer.model.engines",),
    ("trainer.certificate", "trainer.training.tracking"),
    ("trainer.training",),
    ("trainer.training.preference",),
    ("trainer.steps", "trainer.check", "trainer.answers"),
    ("trainer.__main__",),
)
ALLOWED: dict[str, set[str]] = (
    {"gemtune": set()}
    | {
        f"gemtune.{room}": {"gemtune", *(f"gemtune.{name}" for name in names.split())}
        for room, names in SERVICE.items()
    }
    | {
        room: lower | {f"gemtune.{name}" for name in SERVICE_FOR_TRAINER.split()}
        for room, lower in house_rules.floors(FLOORS).items()
    }
    | {"main": {"gemtune.bootstrap", "gemtune.handlers"}}
    | {"deploy": set(), "examples": {"gemtune.settings"}, "examples.capitals": set(), "examples.shapes": set()}
)
ALLOWED["gemtune.local_server"] |= {"trainer.__main__"}  # as a process
ALLOWED["gemtune.cli.connection"] |= {"gemtune.cli"}  # as a process, which serves
ALLOWED["gemtune.embedded"] |= {"trainer.__main__"}  # as a process
ALLOWED["gemtune.cli.check"] |= {"trainer.__main__"}  # as a process
ALLOWED["gemtune.cli.workstation"] |= {"examples"}  # as processes, for the demo
ALLOWED["gemtune.cli.answers"] |= {"trainer.answers"}  # as a process
ALLOWED["trainer.answers"] |= {"gemtune.bootstrap"}
ALLOWED["trainer.__main__"] |= {"gemtune.bootstrap"}
ALLOWED["trainer.check"] |= {"gemtune.bootstrap"}
# Pages of reference describe the service.
ALLOWED["docs"] = set()
ALLOWED["docs.generate.text"] = {"gemtune.request"}
ALLOWED["docs.generate.pages"] = {"docs.generate.text", *(room for room in ALLOWED if room.startswith("gemtune"))}
ALLOWED["docs.generate"] = {"docs.generate.pages", "docs.generate.text"}
# Benchmarks measure all of it.
ALLOWED["bench"] = {room for room in ALLOWED if not room.startswith("deploy")}
ALLOWED |= dict.fromkeys(("bench.certificate", "bench.overhead", "bench.rows", "bench.scale"), ALLOWED["bench"])
ALLOWED["bench.gpu"] = ALLOWED["bench"] | {"bench"}

EXEMPT: house_rules.Exemptions = {
    ("gemtune", "gemtune.client.sync"): "imported when it is used: `from gemtune import Client`",
    ("gemtune", "gemtune.client.asynchronous"): "imported when it is used: `from gemtune import AsyncClient`",
    ("trainer.context", "gemtune.services.advance"): "a step writes its record through this use case and no other",
}
MORE_FILES: Mapping[str, int] = {}
MORE_LINES: Mapping[str, str] = {
    "bench.memory": "one measurement",
    "bench.service": "one measurement",
    "trainer.model.on_cpu.loops": "numba inlines the helpers into every loop of this file",
}

# All of the service, and the parts of the trainer that prepare, uploads and the record need.
WITHOUT_TORCH = {room for room in ALLOWED if room.startswith(("gemtune", "deploy", "main"))} | {
    "trainer",
    "trainer.__main__",
    "trainer.audio",
    "trainer.check",
    "trainer.context",
    "trainer.conversation",
    "trainer.dataset",
    "trainer.gguf",
    "trainer.hub",
    "trainer.media",
    "trainer.pictures",
    "trainer.published",
    "trainer.rows",
    "trainer.splits",
    "trainer.store",
    "trainer.training.tracking",
    "trainer.unsloth_environment",
}

# Python files of other projects that the text of this one names.
ELSEWHERE = {
    "convert_hf_to_gguf.py",
    "vendor/llama.cpp/convert_hf_to_gguf.py",
    "convert_lora_to_gguf.py",
    "vendor/llama.cpp/convert_lora_to_gguf.py",
    "gguf-py/gguf/scripts/gguf_new_metadata.py",
    "llama_cpp/llama_cpp.py",
    "bindings/llama_cpp/llama_cpp.py",
    "llama_cpp/_ctypes_extensions.py",
    "bindings/llama_cpp/_ctypes_extensions.py",
}


@pytest.fixture(scope="module")
def tree_with_tests() -> Tree:
    return read(ROOT)


@pytest.fixture(scope="module")
def tree(tree_with_tests: Tree) -> Tree:
    return tree_with_tests.of(PRODUCT)


@pytest.fixture(scope="module")
def ports(tree: Tree) -> dict[str, set[str]]:
    """Return the ports of which each backend has its own implementation."""
    backend_ports = house_rules.protocols(tree, "gemtune.ports")
    del backend_ports["Clock"]
    return backend_ports


def test_rooms_import_only_what_the_table_allows(tree: Tree) -> None:
    assert house_rules.forbidden_arrows(tree, ALLOWED, EXEMPT) == []
    assert house_rules.rooms_without_a_place(tree, ALLOWED) == []
    assert house_rules.needless_exemptions(tree, EXEMPT) == []


def test_no_file_and_no_room_imports_itself_through_others(tree: Tree) -> None:
    assert house_rules.file_circle(tree, EXEMPT) == []
    assert house_rules.room_circle(tree, EXEMPT) == []


def test_rooms_and_files_are_small_and_rooms_have_a_docstring(tree: Tree) -> None:
    assert house_rules.crowded_folders(tree, MORE_FILES) == []
    assert house_rules.long_files(tree, MORE_LINES) == []
    assert house_rules.rooms_without_a_line(tree) == []
    assert house_rules.repeated_names(tree) == []


def test_the_service_and_the_prepare_step_do_without_torch(tree: Tree) -> None:
    assert house_rules.torch_in(tree, WITHOUT_TORCH) == []
    assert house_rules.torch_reached_from(tree, "trainer.steps.prepare") == []


def test_deploying_needs_nothing_but_python(tree: Tree) -> None:
    assert house_rules.foreign_packages(tree, "deploy") == []


@pytest.mark.parametrize("backend", ["embedded", "gcp"])
def test_a_backend_is_one_implementation_of_each_port_and_nothing_else(
    tree: Tree, ports: dict[str, set[str]], backend: str
) -> None:
    # The database behind three ports, whose queues the local server processes, and the errors of writing files.
    shared = {"gemtune.embedded.database", "gemtune.embedded.disk"}
    assert house_rules.strangers_among_ports(tree, f"gemtune.{backend}", ports, shared) == []
    implemented = house_rules.ports_implemented(tree, f"gemtune.{backend}", ports)
    assert sorted(port for names in implemented.values() for port in names) == sorted(ports)


def test_names_of_modules_in_strings_exist(tree_with_tests: Tree) -> None:
    """Check tests too: a patch of a module that was moved would test nothing."""
    no_modules = ("gemtune.db", "gemtune.example", "trainer.py")
    planted = "tests.unit.source_tree.test_house_rules"
    names = tree_with_tests.dead_names
    assert [name for name in names if not name.startswith(planted) and not name.endswith(no_modules)] == []


def test_files_and_programs_that_texts_name_exist() -> None:
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    files = [name for name in files if (ROOT / name).is_file()]
    named = (".py", ".md", ".toml", ".yaml", ".tf", "Makefile", "Dockerfile")
    texts = {
        name: (ROOT / name).read_text()
        for name in files
        if name.endswith(named) and name != "CHANGELOG.md" and not name.startswith("tests/")
    }
    assert house_rules.dead_mentions(texts, files, ELSEWHERE) == []
