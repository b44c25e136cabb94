"""Decoders of JSON, YAML and numbers outside the reader of untrusted text.

The table says why each of them is allowed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.syntax import nodes_of

ROOT = Path(__file__).parent.parent.parent.parent
READER = "functions/gemtune/untrusted/"
# `int` is checked in the service only, which decodes foreign text; the trainer calculates with it.
DECODERS = {"json.loads", "json.load", "YAML", "yaml.load", "yaml.safe_load", "tomllib.loads"}

OURS = "this program wrote it, and it is the only writer"
PROCESS = "the output of our own process"
PACKAGED = "a file of this package"
CHECKED = "a pattern has checked it"
ALLOWED: Mapping[tuple[str, str], str] = {
    ("functions/gemtune/checks/request.py", "model_validate_json"): "the reader has checked it",
    ("functions/gemtune/cli/answers/child.py", "json.loads"): PROCESS,
    ("functions/gemtune/cli/check/child.py", "model_validate_json"): PROCESS,
    ("functions/gemtune/cli/workstation/demo.py", "json.loads"): PROCESS,
    ("functions/gemtune/client/profiles.py", "model_validate_json"): OURS,
    ("functions/gemtune/client/transport.py", "json.loads"): "an answer that is not JSON is shown unchanged",
    ("functions/gemtune/datasets/files/splits.py", "int"): CHECKED,
    ("functions/gemtune/embedded/file_secrets.py", "model_validate_json"): OURS,
    ("functions/gemtune/embedded/sqlite_bus.py", "json.loads"): OURS,
    ("functions/gemtune/embedded/sqlite_bus.py", "int"): OURS,
    ("functions/gemtune/embedded/sqlite_store.py", "json.loads"): OURS,
    ("functions/gemtune/families/adapted_layers.py", "int"): "it is decimal digits, and has at most 100",
    ("functions/gemtune/handlers/control_api.py", "model_validate_json"): "only the workflow may call",
    ("functions/gemtune/training_files/loss_history.py", "int"): CHECKED,
    ("functions/gemtune/jobs/salvage.py", "json.loads"): "our own record, possibly damaged",
    ("functions/gemtune/jobs/stored.py", "model_validate_json"): OURS,
    ("functions/gemtune/local_server/delivery.py", "json.loads"): OURS,
    ("functions/gemtune/local_server/home_lock.py", "int"): OURS,
    ("functions/gemtune/local_server/workflow_engine/reader.py", "YAML"): PACKAGED,
    ("functions/gemtune/machines/cost.py", "json.loads"): PACKAGED,
    ("functions/gemtune/process/parent_death.py", "int"): PROCESS,
    ("functions/gemtune/request/parsing.py", "model_validate_json"): "the reader has checked it",
    ("functions/gemtune/request/spec.py", "model_validate_json"): OURS,
    ("functions/gemtune/services/datasets/check.py", "model_validate_json"): OURS,
    ("functions/gemtune/services/datasets/rows.py", "model_validate_json"): OURS,
    ("functions/gemtune/services/datasets/rows.py", "int"): CHECKED,
    ("functions/gemtune/services/datasets/upload.py", "model_validate_json"): OURS,
    ("functions/gemtune/services/machine_slots.py", "model_validate_json"): OURS,
    ("functions/gemtune/services/notify.py", "json.loads"): OURS,
    ("functions/gemtune/services/budgets/ledger.py", "model_validate_json"): OURS,
    ("functions/gemtune/services/cleanup/positions.py", "model_validate_json"): OURS,
    ("functions/gemtune/services/acceptance/stored_request.py", "model_validate_json"): OURS,
    ("functions/gemtune/services/planning/measured_speeds.py", "model_validate_json"): OURS,
    ("functions/gemtune/webhooks/destinations.py", "int"): "a number already",
    ("functions/gemtune/webhooks/signing.py", "int"): "a number already",
    ("functions/gemtune/training_files/checkpoint_names.py", "int"): CHECKED,
    ("trainer/answers/files.py", "json.loads"): OURS,
    ("trainer/answers/__main__.py", "json.loads"): PROCESS,
    ("trainer/base_model/continuation.py", "json.loads"): OURS,
    ("trainer/check/process.py", "model_validate_json"): PROCESS,
    ("trainer/dataset/source.py", "model_validate_json"): OURS,
    ("trainer/certificate/comparison_process.py", "json.loads"): PROCESS,
    ("trainer/certificate/parity_check.py", "json.loads"): PROCESS,
    ("trainer/certificate/reference.py", "json.loads"): OURS,
    ("trainer/certificate/files/settings.py", "json.loads"): OURS,
    ("trainer/certificate/files/weights.py", "json.loads"): OURS,
    ("trainer/export/lora_weights.py", "json.loads"): OURS,
    ("trainer/export/lossy.py", "json.loads"): OURS,
    ("trainer/model/added_lora.py", "json.loads"): OURS,
    ("trainer/export/trained_weights.py", "json.loads"): OURS,
    ("trainer/export/versions.py", "json.loads"): OURS,
    ("trainer/hub/upload.py", "json.loads"): OURS,
    ("trainer/steps/export.py", "json.loads"): OURS,
    ("trainer/steps/train.py", "json.loads"): OURS,
    ("trainer/steps/train.py", "model_validate_json"): OURS,
    ("trainer/training/tracking/wandb_process.py", "json.loads"): PROCESS,
}


def test_the_list_names_every_file_that_decodes_without_the_reader() -> None:
    calls = {call for path in _sources() for call in decoders(path)}
    assert calls - ALLOWED.keys() == set()  # read it with gemtune.untrusted, or add the reason to ALLOWED
    assert ALLOWED.keys() - calls == set()


def test_a_decoder_is_found_at_every_depth(tmp_path: Path) -> None:
    path = tmp_path / "new.py"
    path.write_text(
        "import json\nclass A:\n    read = lambda self, text: [json.loads(text), A.model_validate_json(text)]\n"
    )
    assert {call for _, call in decoders(path)} == {"json.loads", "model_validate_json"}


def decoders(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every decoder in a file, called or passed on, with its file name."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    for node in nodes_of(path.read_text()):
        if isinstance(node, ast.Attribute) and node.attr == "model_validate_json":
            yield name, node.attr
        elif isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node) in DECODERS:
            yield name, ast.unparse(node)
        elif isinstance(node, ast.Call) and name.startswith("functions/") and ast.unparse(node.func) == "int":
            yield name, "int"


def _sources() -> list[Path]:
    sources = [path for folder in ("functions", "trainer") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in sources if not path.relative_to(ROOT).as_posix().startswith(READER)]
