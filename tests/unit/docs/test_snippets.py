"""Snippets of the documentation are valid for the code.

tests/e2e/test_snippets.py runs the shell commands.
"""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest

from gemtune.cli.group import main
from gemtune.client.sync import Client, Job
from gemtune.datasets.files import splits
from gemtune.datasets.rl.read import RlRow, read_labelled, read_pair, read_question
from gemtune.datasets.row_options import ReadOptions
from gemtune.environment.variables import VARIABLES
from gemtune.handlers.answers import ErrorAnswer
from gemtune.jobs.events import EVENT_TYPES, Event
from gemtune.jobs.sources import Source
from gemtune.request import parsing, rules
from gemtune.request.facts import Deployment, Facts
from gemtune.request.spec import ExportRequest
from gemtune.request.uploads.job_file import as_json
from gemtune.webhooks import signing
from tests import snippets
from tests.conversations import conversation_of
from tests.snippets import ROOT, Snippet

LANGUAGES = {"sh", "json", "yaml", "python", "hcl", "mermaid", "text"}
WORKSTATION = Facts(
    Deployment(
        machines=("local",),
        local_folders=True,
        webhooks_to_loopback=False,
        has_hf_token=False,
        has_unsloth=True,
        may_have_gpu=True,
        has_timm=True,
        wandb_needs_key=True,
    )
)
SHELL = snippets.of_language("sh")
DOCUMENTS = snippets.of_language("json", "yaml")
PYTHON = snippets.of_language("python")
MAKEFILE = (ROOT / "Makefile").read_text()


def test_every_fence_has_a_language() -> None:
    unknown = {
        f"{page}: ```{language}"
        for page in snippets.pages()
        for language in re.findall(r"^```(\w*)\n(?:.*\n)*?```$", (ROOT / page).read_text(), re.MULTILINE)
        if language not in LANGUAGES
    }
    assert unknown == set()


@pytest.mark.parametrize("snippet", SHELL, ids=str)
def test_shell_snippets_have_valid_syntax(snippet: Snippet) -> None:
    checked = subprocess.run(["bash", "-n"], input=snippet.text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("snippet", SHELL, ids=str)
def test_names_in_shell_snippets_exist(snippet: Snippet) -> None:
    for words in snippets.commands(snippet):
        program = Path(words[0]).name
        if program == "make":
            check_make(words[1:])
        elif program == "gemtune":
            check_gemtune(words[1:])
        elif program == "terraform" and "output" in words:
            check_output(words[words.index("output") + 1 :])


def check_make(words: list[str]) -> None:
    for word in words:
        name, has_value, _ = word.partition("=")
        if has_value:
            assert name in VARIABLES, f"{name} is not in gemtune/environment/variables.py"
        else:
            assert re.search(rf"^{name}:.*?## ", MAKEFILE, re.MULTILINE), f"there is no target {name}"


def check_gemtune(words: list[str]) -> None:
    context = click.Context(main)
    command = main.get_command(context, words[0])
    assert command is not None, f"gemtune has no {words[0]}"
    if isinstance(command, click.Group):
        assert words[1] in command.commands, f"gemtune {words[0]} has no {words[1]}"
        command = command.commands[words[1]]
    options = {option for parameter in command.get_params(context) for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def check_output(words: list[str]) -> None:
    outputs = (ROOT / "terraform/outputs.tf").read_text()
    for name in (word for word in words if not word.startswith("-")):
        assert f'output "{name}"' in outputs, f"terraform has no output {name}"


@pytest.mark.parametrize("snippet", snippets.of_language("hcl"), ids=str)
def test_variables_of_terraform_exist(snippet: Snippet) -> None:
    variables = (ROOT / "terraform/variables.tf").read_text()
    names = re.findall(r"^(\w+)\s*=", snippet.text, re.MULTILINE)
    assert names
    assert [name for name in names if f'variable "{name}"' not in variables] == []


@pytest.mark.parametrize("snippet", DOCUMENTS, ids=str)
def test_documents_are_valid(snippet: Snippet) -> None:
    document = as_json(snippet.text.encode(), yaml=snippet.language == "yaml")
    assert isinstance(document, dict)
    check_document(document)


def check_document(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    if "training_config" in document:
        reading = rules.check(parsing.read(text, Source.HTTP), WORKSTATION)
        assert reading.problems == ()
    elif "export_config" in document:
        reading_of_export = parsing.read_export(text)
        assert reading_of_export.problems == ()
        assert isinstance(reading_of_export.request, ExportRequest)
    elif "splits" in document:
        assert splits.by_metadata(document)
    elif "seq" in document:
        assert Event.model_validate_json(text, strict=True).type in EVENT_TYPES
    elif "error" in document:
        assert ErrorAnswer.model_validate_json(text).model_dump(mode="json") == document
    elif "label" in document:
        assert isinstance(read_labelled(document, ReadOptions()), RlRow)
    elif "chosen" in document:
        assert isinstance(read_pair(document, ReadOptions()), RlRow)
    elif "messages" in document or "completion" in document:
        assert conversation_of(document, with_pictures=True, with_audio=True).turns
    else:
        assert isinstance(read_question(document, ReadOptions(), ["answer"]), RlRow)


def test_requests_in_shell_snippets_are_accepted() -> None:
    """Check the documents that shell snippets write or post."""
    requests = 0
    for snippet in SHELL:
        for text in re.findall(r"\{\s*\"processed_dataset_id\".*?\}\}", snippet.text, re.DOTALL):
            check_document(json.loads(re.sub(r"'?\$BASE'?", "google/gemma-3-270m", text)))
            requests += 1
    assert requests >= 3


@pytest.mark.parametrize("snippet", PYTHON, ids=str)
def test_python_snippets_run(snippet: Snippet) -> None:
    names: dict[str, Any] = {}
    code = compile(snippet.text, str(snippet), "exec")
    if snippet.reason is not None:
        check_client_calls(snippet.text)
        return
    exec(code, names)
    if "is_genuine" in names:
        check_verifier(names["is_genuine"])


def check_client_calls(text: str) -> None:
    """Check that the clients have the verbs that a snippet calls."""
    for variable, verb in re.findall(r"\b(client|job)\.(\w+)\(", text):
        assert hasattr({"client": Client, "job": Job}[variable], verb), f"{variable}.{verb}"


def check_verifier(is_genuine: Any) -> None:
    """Check the documented verifier with a genuine and a changed webhook."""
    key = "whsec_c2VjcmV0"
    headers = signing.signed_headers(key, event_id="job_1", at=datetime.now(UTC), body=b"{}")
    assert is_genuine(key, headers, b"{}")
    assert not is_genuine(key, headers, b"[]")
