"""Environment of unsloth: its faults are found, repaired and reported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gemtune.errors import StepError
from gemtune.request.spec import Spec
from gemtune.request.training_config import TrainingConfig
from trainer import unsloth_environment
from trainer.model.engines import unsloth
from trainer.unsloth_environment import fault_of

CODE = "answer = 42\n"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create an environment with one package, without a package index."""
    pins = tmp_path / "unsloth.txt"
    pins.write_text("# A comment.\nlayer_one==1.0\n")
    monkeypatch.setattr(unsloth_environment, "PINS", pins)
    monkeypatch.setattr(unsloth_environment, "_create", make_environment)
    monkeypatch.setenv("GEMTUNE_CACHE", str(tmp_path / "cache"))
    return unsloth_environment.interpreter().parents[1]


def make_environment(folder: Path, beneath: str, version: str = "1.0") -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "beneath.pth").write_text(f"import site; site.addsitedir({beneath!r})\n")
    (packages / "layer_one.py").write_text(CODE)
    described = packages / f"layer_one-{version}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: layer-one\nVersion: {version}\n")
    record = [f"layer_one.py,sha256=,{len(CODE)}", "__pycache__/layer_one.pyc,,", f"{described.name}/RECORD,,"]
    (described / "RECORD").write_text("\n".join(record) + "\n")


def packages_of(folder: Path) -> Path:
    (packages,) = (folder / "lib").glob("python*/site-packages")
    return packages


def upgrade(folder: Path) -> None:
    described = packages_of(folder) / "layer_one-1.0.dist-info"
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: layer-one\nVersion: 2.0\n")


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is gone": (lambda folder: (packages_of(folder) / "layer_one.py").unlink(), "lacks layer_one.py"),
    "its list of files is gone": (
        lambda folder: (packages_of(folder) / "layer_one-1.0.dist-info" / "RECORD").unlink(),
        "lacks RECORD",
    ),
    "a file is cut off": (
        lambda folder: (packages_of(folder) / "layer_one.py").write_text("a"),
        "lacks layer_one.py, or a part",
    ),
    "a package is gone": (
        lambda folder: (packages_of(folder) / "layer_one-1.0.dist-info" / "METADATA").unlink(),
        "layer_one is",
    ),
    "a package is another version": (upgrade, "is 2.0, not 1.0"),
    "the interpreter is gone": (lambda folder: (folder / "bin" / "python").unlink(), "interpreter does not run"),
    "nothing is beneath it": (lambda folder: (packages_of(folder) / "beneath.pth").unlink(), "does not find torch"),
}


def test_an_intact_environment_is_kept(environment: Path) -> None:
    assert fault_of(environment) is None
    (environment / "mark").touch()
    assert unsloth_environment.interpreter() == environment / "bin" / "python"
    assert (environment / "mark").exists()


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_environment_is_reported_and_rebuilt(
    environment: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it, fault = BREAKS[name]
    break_it(environment)
    assert fault in (fault_of(environment) or "")
    assert unsloth_environment.interpreter() == environment / "bin" / "python"
    assert fault in capsys.readouterr().err
    assert fault_of(environment) is None


def refusal_with(folder: Path, monkeypatch: pytest.MonkeyPatch, **packages: str) -> StepError:
    """Return the engine's refusal when the packages contain this code."""
    for name, code in packages.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    config = TrainingConfig(base_model_id="google/gemma-3-270m", provider="unsloth")
    with pytest.raises(StepError) as caught:
        unsloth.prepare(Spec(processed_dataset_id="chats", training_config=config))
    return caught.value


@pytest.mark.parametrize("packages", [{}, {"unsloth": ""}])
def test_a_missing_package_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: dict[str, str]
) -> None:
    refusal = refusal_with(tmp_path, monkeypatch, **packages)
    assert refusal.code == "unsloth_missing"
    assert refusal.message.endswith("no unsloth_zoo" if packages else "no unsloth")
    assert "make unsloth" in (refusal.hint or "")


@pytest.mark.parametrize("raised", ["AttributeError('no such part')", "ImportError('no zoo')", "OSError('no library')"])
def test_an_unsloth_that_does_not_import_is_unusable_until_reinstalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str
) -> None:
    refusal = refusal_with(tmp_path, monkeypatch, unsloth=f"raise {raised}", unsloth_zoo="")
    assert refusal.code == "unsloth_unusable"
    assert raised.partition("(")[0] in refusal.message
    assert "make unsloth" in (refusal.hint or "")
    assert "GPU" not in (refusal.hint or "")


def test_an_unsloth_that_finds_no_gpu_says_that_it_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = refusal_with(
        tmp_path, monkeypatch, unsloth="raise NotImplementedError('You need a GPU.')", unsloth_zoo=""
    )
    assert refusal.code == "unsloth_unusable"
    assert "GPU" in (refusal.hint or "")


def test_running_out_of_memory_is_not_reported_as_a_fault_of_unsloth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code in (("unsloth", "raise MemoryError"), ("unsloth_zoo", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    config = TrainingConfig(base_model_id="google/gemma-3-270m", provider="unsloth")
    with pytest.raises(MemoryError):
        unsloth.prepare(Spec(processed_dataset_id="chats", training_config=config))


def test_a_failure_of_pip_is_reported_without_a_traceback(tmp_path: Path) -> None:
    environment = os.environ | {"GEMTUNE_CACHE": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    command = [sys.executable, "-m", "trainer.unsloth_environment"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith("the environment of unsloth was not created: see above why pip failed\n")
    assert "Traceback" not in result.stderr
