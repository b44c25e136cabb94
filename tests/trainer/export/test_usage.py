"""Usage section of an export's README: what can run here is run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

from gemtune.llama_cpp import PROGRAMS, PROGRAMS_FOLDER, has_programs
from gemtune.methods import Modality
from gemtune.request.exports import EXPORTS, Export
from gemtune.request.spec import Spec
from gemtune.settings import Settings
from tests.trainer import untrained_results
from trainer.export import lossy
from trainer.export.merge import merge
from trainer.export.usage import how_to_run

ALL = [(name, export) for name, form in EXPORTS.items() for export in form.exports]


def spec_of(base: str, export_format: str, quantization: str, modality: str = "text") -> Spec:
    export = {"format": export_format, "quantization": quantization}
    fields: dict[str, Any] = {"training_config": {"base_model_id": base}, "export_config": export}
    return Spec.model_validate({"processed_dataset_id": "x", "modality": modality} | fields)


@pytest.mark.parametrize(("export_format", "export"), ALL)
@pytest.mark.parametrize("modality", get_args(Modality))
def test_no_command_listens_where_the_service_does(export_format: str, export: Export, modality: str) -> None:
    shown = how_to_run(spec_of("a/b", export_format, export.quantization, modality))
    assert str(Settings.from_environment().port) not in shown
    ports = set(re.findall(r"--port (\d+)", shown))
    assert ports == ({"8081"} if export_format == "gguf" else set())


@pytest.mark.parametrize("quantization", ["none", "q4"])
def test_the_code_for_a_merged_model_prints_an_answer(
    tmp_path: Path, tiny: Path, quantization: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exported"
    merge(tiny, untrained_results.write_adapter(tiny, tmp_path / "adapter"), folder, quantization)
    if quantization == "q4":  # under the name that weights get which lose more than their format may
        lossy.rename_weights(folder, spec_of("a/b", "merged", quantization).export)
    monkeypatch.chdir(folder)
    run_python(how_to_run(spec_of("a/b", "merged", quantization)))
    assert capsys.readouterr().out.strip()


def test_the_code_for_an_adapter_prints_an_answer(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    monkeypatch.chdir(untrained_results.write_adapter(base, tmp_path / "adapter"))
    run_python(how_to_run(spec_of(str(base), "adapter", "none")))
    assert capsys.readouterr().out.strip()


def test_the_code_for_an_adapter_with_new_tokens_prints_an_answer(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    monkeypatch.chdir(untrained_results.write_adapter(base, tmp_path / "adapter", new_tokens=["<a>", "<b>"]))
    spec = spec_of(str(base), "adapter", "none")
    training = spec.training_config.model_copy(update={"new_tokens": ["<a>", "<b>"]})
    run_python(how_to_run(spec.model_copy(update={"training_config": training})))
    assert capsys.readouterr().out.strip()


def run_python(markdown: str) -> None:
    """Run the Python code of a README."""
    match = re.search(r"```python\n(.*?)```", markdown, re.DOTALL)
    assert match is not None
    exec(compile(match[1], "README.md", "exec"), {})


def test_a_lossy_gguf_file_has_its_name_in_every_command() -> None:
    spec = spec_of("a/b", "gguf", "q2_k")
    shown = how_to_run(spec, is_lossy=True)
    assert "model-q2_k-lossy.gguf" in shown
    assert "model-q2_k.gguf" not in shown


def test_the_modelfile_names_a_lossy_file(tmp_path: Path) -> None:
    (tmp_path / "model-q2_k.gguf").write_bytes(b"GGUF")
    (tmp_path / "Modelfile").write_text("FROM ./model-q2_k.gguf\n")
    lossy.rename_weights(tmp_path, spec_of("a/b", "gguf", "q2_k").export)
    assert (tmp_path / "model-q2_k-lossy.gguf").is_file()
    assert (tmp_path / "Modelfile").read_text() == "FROM ./model-q2_k-lossy.gguf\n"


@pytest.mark.parametrize("modality", get_args(Modality))
def test_the_programs_of_llama_cpp_have_the_options_that_are_shown(modality: str) -> None:
    folder = Settings.from_environment().llama_cpp
    if not has_programs(folder):
        pytest.skip("llama.cpp's programs are not built on this machine: run make llama")
    shown = how_to_run(spec_of("a/b", "gguf", "q8_0", modality))
    commands = re.findall(r"^(llama-\S+) (.*)$", shown, re.MULTILINE)
    assert {name for name, _ in commands} == set(PROGRAMS[: 2 if modality == "text" else 3])
    for name, arguments in commands:
        ran = subprocess.run([folder / PROGRAMS_FOLDER / name, "--help"], capture_output=True, text=True, check=False)
        options = set(re.findall(r"(?<!\S)--[a-z-]+", ran.stdout + ran.stderr))
        assert set(re.findall(r"(?<!\S)--[a-z-]+", arguments)) <= options
