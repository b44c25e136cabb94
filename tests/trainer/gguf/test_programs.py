"""llama.cpp's own programs, called as the README of an export shows."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gemtune.llama_cpp import PROGRAMS_FOLDER, has_programs
from tests.e2e.api import wait_for
from tests.emulators.children import free_port
from tests.trainer.export.test_usage import spec_of
from tests.trainer.gguf.test_gguf import export, trained_of  # noqa: F401
from trainer.certificate.runtimes import LlamaCpp
from trainer.export.trained_weights import TrainedWeights
from trainer.export.usage import how_to_run
from trainer.gguf.llama_library import LlamaModel

MESSAGES = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    trained_of: Callable[[str], TrainedWeights],  # noqa: F811
    tools: Path,
) -> Path:
    if not has_programs(tools):
        pytest.skip("llama.cpp's programs are not built on this machine: run make llama")
    return export(trained_of("gemma3"), tmp_path_factory.mktemp("export") / "exported", "f16", tools)


def command(program: str, tools: Path) -> list[str]:
    """Return the command of an export's README that calls a program."""
    shown = how_to_run(spec_of("a/b", "gguf", "f16"))
    (line,) = re.findall(rf"^{program} .*$", shown, re.MULTILINE)
    return [str(tools / PROGRAMS_FOLDER / program), *shlex.split(line)[1:]]


def expected_answer(folder: Path, tools: Path, limit: int) -> str:
    """Return the greedy answer that the certificate compares."""
    model = LlamaCpp(LlamaModel(tools, folder / "model-f16.gguf"), folder, folder.parent / "exported-whole")
    answer = model.text(model.answer(model.prompts(MESSAGES, {})["chat template"], limit)).strip()
    assert answer
    return answer


def test_the_command_for_a_conversation_answers(folder: Path, tools: Path) -> None:
    greedy = ["--temp", "0", "--predict", "8", "--threads", "1"]
    ran = subprocess.run(
        [*command("llama-cli", tools), *greedy], input="Hello!\n/exit\n", capture_output=True, text=True, cwd=folder
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert expected_answer(folder, tools, 8) in ran.stdout


@pytest.fixture
def server(folder: Path, tools: Path) -> Iterator[str]:
    """Start the server of the README on a free port; yield its URL."""
    port = free_port()
    arguments = [str(port) if part == "8081" else part for part in command("llama-server", tools)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*arguments, "--threads", "1"], cwd=folder, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: process.poll() is not None or is_ready(url), seconds=600, what="llama-server")
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            yield url
        finally:
            process.terminate()
            process.wait()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health") as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_the_server_answers_as_the_certified_model(server: str, folder: Path, tools: Path) -> None:
    body: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "max_tokens": 8}
    request = urllib.request.Request(
        f"{server}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)["choices"][0]["message"]["content"]
    assert answer.strip() == expected_answer(folder, tools, 8)
