"""The images of trainer/, tested without a Docker engine.

The Dockerfile is linted and parsed; its install and its entry point run on the files that it copies.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

dockerfile = pytest.importorskip("dockerfile", reason="the package dockerfile has no wheel for this machine")

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "trainer" / "Dockerfile"
COMMANDS = dockerfile.parse_file(str(DOCKERFILE))


def stages() -> dict[str, list[Any]]:
    """Return the instructions of each stage, by its name."""
    instructions: dict[str, list[Any]] = {}
    for command in COMMANDS:
        if command.cmd.upper() == "FROM":
            instructions[command.value[-1]] = []
        elif instructions:
            instructions[list(instructions)[-1]].append(command)
    return instructions


def of_kind(stage: str, kind: str) -> list[Any]:
    return [command for command in stages()[stage] if command.cmd.upper() == kind]


def environment(stage: str) -> dict[str, str]:
    values = [part for command in of_kind(stage, "ENV") for part in command.value]
    return dict(zip(values[::2], values[1::2], strict=True))


def test_the_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_linter_finds_a_planted_mistake(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text(DOCKERFILE.read_text().replace("--no-install-recommends ", "").replace("slim-bookworm", "slim"))
    hadolint = Path(sys.executable).with_name("hadolint")
    linted = subprocess.run([hadolint, "--no-color", bad], capture_output=True, text=True, check=False)
    assert "DL3015" in linted.stdout


def test_the_final_stage_has_no_root_user_and_on_a_cpu_no_compiler() -> None:
    assert list(stages()) == ["llama", "packages", "image"]
    bases = {command.value[0] for command in COMMANDS if command.cmd.upper() == "FROM"}
    assert bases == {"python:${PYTHON}"}
    (base,) = [
        value for command in COMMANDS if command.cmd.upper() == "ARG" for value in command.value if "PYTHON" in value
    ]
    assert re.fullmatch(r"PYTHON=3\.11-slim-\w+", base)
    (user,) = of_kind("image", "USER")
    assert int(user.value[0]) >= 10_000
    last = [command.cmd.upper() for command in stages()["image"]]
    assert last.index("USER") > max(index for index, cmd in enumerate(last) if cmd in ("RUN", "COPY", "ADD"))
    (entry,) = of_kind("image", "ENTRYPOINT")
    assert entry.value == ("python", "-m", "trainer")
    (installs,) = [command.value[0] for command in of_kind("image", "RUN") if "apt-get" in command.value[0]]
    assert installs.startswith('if [ "${TORCH}" != cpu ]')


def test_the_image_finds_what_its_stages_have_built() -> None:
    variables = environment("image")
    assert variables == {
        "PATH": "/opt/venv/bin:$PATH",
        "PYTHONPATH": "/app",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GEMTUNE_BACKEND": "gcp",
        "GEMTUNE_LLAMA_CPP": "/opt/llama.cpp",
    }
    copies = {command.value for command in of_kind("image", "COPY") if any("--from" in flag for flag in command.flags)}
    assert copies == {("/opt/llama.cpp",) * 2, ("/opt/venv",) * 2, ("/opt/unsloth",) * 2}
    built = {stage: " ".join(command.value[0] for command in of_kind(stage, "RUN")) for stage in ("llama", "packages")}
    assert f"trainer.gguf.llama_cpp_build {variables['GEMTUNE_LLAMA_CPP']}" in built["llama"]
    assert "python -m venv /opt/venv" in built["packages"]
    # Terraform's setting has to name the interpreter that the image has.
    (interpreter,) = re.findall(
        r'GEMTUNE_UNSLOTH_PYTHON = "(.+)/bin/python"', (ROOT / "terraform" / "functions.tf").read_text()
    )
    assert f" {interpreter};" in built["packages"]


def test_the_image_contains_no_secrets_and_no_weights() -> None:
    text = DOCKERFILE.read_text()
    assert "ADD " not in text
    assert not re.search(r"(?i)token|password|secret|huggingface\.co|hf_|\.safetensors|\.gguf(?!\.)", text)
    assert "HF_TOKEN" not in environment("image")


def context_files() -> set[str]:
    """Return the files that .dockerignore lets into a build.

    As in Docker, the last matching line decides.
    """
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()

    def matches(name: str, pattern: str) -> bool:
        parts = name.split("/")
        prefixes = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        if pattern.startswith("**/"):
            return any(fnmatch(part, pattern[3:]) for part in parts)
        return any(fnmatch(prefix, pattern) and prefix.count("/") == pattern.count("/") for prefix in prefixes)

    included = set()
    for name in tracked:
        ignored = False
        for rule in rules:
            if matches(name, rule.removeprefix("!")):
                ignored = not rule.startswith("!")
        if not ignored and (ROOT / name).is_file():
            included.add(name)
    return included


def copied(stage: str) -> dict[str, str]:
    """Return source -> path in the image of the files that a stage copies."""
    files = context_files()
    workdir = next((command.value[0] for command in of_kind(stage, "WORKDIR")), "/")
    targets = {}
    for command in of_kind(stage, "COPY"):
        if command.flags:
            continue
        *sources, target = command.value
        target = str(Path(workdir) / target) + ("/" if target.endswith("/") else "")
        for source in sources:
            below = [name for name in files if name == source or name.startswith(f"{source}/")]
            assert below, f"{source} is not in the build's context"
            for name in below:
                into = target if name != source else f"{target}{Path(name).name}" if target.endswith("/") else target
                targets[name] = into if name == source else f"{target.rstrip('/')}/{name.removeprefix(source + '/')}"
    return targets


def test_only_files_that_are_copied_are_sent_to_the_build() -> None:
    sent = {name for stage in stages() for name in copied(stage)}
    assert context_files() == sent
    assert not [name for name in sent if name.startswith("tests/") or name.endswith((".pyc", "Dockerfile"))]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out the files of the last stage as in the image, readable for all."""
    root = tmp_path_factory.mktemp("image")
    for source, target in copied("image").items():
        path = root / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, path)
    return root


def as_other_user() -> list[str]:
    """Return the prefix of a command that runs as a user without rights.

    Root becomes another user in a user namespace, since our Python may be where only root can read.
    """
    if os.geteuid() != 0:
        return []
    become = ["unshare", "--user", "--map-user=10001", "--map-group=10001"]
    if subprocess.run([*become, "true"], check=False).returncode != 0:
        pytest.skip("user namespaces are disabled, so root cannot become another user")
    return become


def in_the_image(app: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the image's environment and as its user."""
    variables_of_image = {name: value for name, value in environment("image").items() if name != "PATH"}
    variables_of_image |= {
        "PYTHONPATH": str(app / "app"),
        "HOME": "/nonexistent",
        "PATH": os.environ["PATH"],
    } | variables
    command = [*as_other_user(), sys.executable, *arguments]
    return subprocess.run(command, cwd=app / "app", env=variables_of_image, capture_output=True, text=True, check=False)


def test_the_entry_point_runs_from_a_bare_copy_without_root(app: Path) -> None:
    ran = in_the_image(app, *of_kind("image", "ENTRYPOINT")[0].value[1:], "--help")
    assert ran.returncode == 0, ran.stderr
    assert "{prepare,train,export}" in ran.stdout
    where = in_the_image(
        app, "-c", "import os, gemtune, trainer; print(os.getuid(), gemtune.__file__, trainer.__file__)"
    )
    uid, *files = where.stdout.split()
    assert int(uid) != 0
    assert all(file.startswith(str(app)) for file in files)


def test_the_modules_of_the_image_import_without_packages_of_the_functions(app: Path) -> None:
    """Import prepare, export and their services; other tests import torch."""
    code = (
        "import sys, importlib\n"
        "for absent in ('functions_framework', 'flask', 'google.events', 'click', 'httpx2', 'waitress', 'lark'):\n"
        "    sys.modules[absent] = None\n"
        "for name in ('trainer.__main__', 'trainer.steps.prepare', 'trainer.steps.export', 'gemtune.bootstrap',\n"
        "             'gemtune.gcp.firestore_store', 'gemtune.gcp.storage_objects', 'gemtune.gcp.secret_manager'):\n"
        "    importlib.import_module(name)\n"
    )
    ran = in_the_image(app, "-c", code, PROJECT_ID="p", REGION="r")
    assert ran.returncode == 0, ran.stderr


def test_a_step_without_its_settings_names_the_missing_ones(app: Path) -> None:
    arguments = ("prepare", "--job-id", "j", "--launch", "1", "--execution", "e")
    ran = in_the_image(app, "-m", "trainer", *arguments)
    assert ran.returncode not in (0, None)
    assert "PROJECT_ID is not set" in ran.stderr


def installs() -> list[list[str]]:
    """Return the arguments of each `pip install` of the stage `packages`."""
    runs = " && ".join(command.value[0] for command in of_kind("packages", "RUN"))
    parts = [part.strip() for part in re.split(r"&&|;|\bthen\b", runs)]
    return [shlex.split(part)[2:] for part in parts if part.startswith("pip install")]


def test_packages_are_wheels_at_the_versions_of_the_lock() -> None:
    torch, rest, timm, cuda, on_gpu = installs()
    assert torch[torch.index("--index-url") + 1] == "https://download.pytorch.org/whl/${TORCH}"
    assert "--no-deps" in torch
    assert rest[rest.index("--only-binary") + 1] == ":all:"
    assert cuda[cuda.index("--constraint") + 1] == "constraints.txt"
    assert "--only-binary" in cuda
    assert "--extra-index-url" not in torch + rest + cuda + timm + on_gpu
    assert {"--no-deps", "--only-binary", "--require-hashes"} <= set(rest) & set(timm) & set(on_gpu)


def test_torchvision_is_the_one_of_the_project_and_of_torchs_own_index() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = [pin for pin in project["optional-dependencies"]["timm"] if pin.startswith("torchvision==")]
    assert pin in installs()[0]


def test_kernels_for_gpus_are_in_no_image_for_cpus() -> None:
    (run,) = [command.value[0] for command in of_kind("packages", "RUN") if "gpu.txt" in command.value[0]]
    assert run.startswith('if [ "${TORCH}" != cpu ]; then pip install ')


def test_pip_finds_the_install_step_satisfied_by_the_lock() -> None:
    """Run the line of the Dockerfile dry: all packages are installed already."""
    rest = installs()[1]
    arguments = [part for part in rest if part != "--no-cache-dir"]
    arguments[arguments.index("requirements.txt")] = "trainer/requirements.txt"
    dry = ["--dry-run", "--no-index", "--no-deps", "--quiet", "--report", "-"]
    command = [sys.executable, "-m", "pip", "install", *dry, *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["install"] == []


def test_gcloudignore_sends_the_same_files_to_a_build(tmp_path: Path) -> None:
    """Let git read .gcloudignore, whose syntax is that of .gitignore."""
    names = context_files() | {".dockerignore", "README.md", "tests/rows.py", "functions/main.py"}
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    shutil.copyfile(ROOT / ".gcloudignore", tmp_path / ".gitignore")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    sent = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"], cwd=tmp_path, capture_output=True, text=True
    )
    assert context_files() | {".dockerignore"} <= set(sent.stdout.split())
    assert not {"README.md", "tests/rows.py", "functions/main.py"} & set(sent.stdout.split())


def test_the_build_of_llama_cpp_needs_only_the_files_of_its_stage(tmp_path: Path) -> None:
    """Run it with the files of its stage, and no packages.

    The tools are marked as built, so nothing is compiled.
    """
    sources = copied("llama")
    # A change of any other file leaves the compiled layer in the cache.
    assert set(sources) == {
        "functions/gemtune/__init__.py",
        "functions/gemtune/llama_cpp.py",
        "trainer/__init__.py",
        "trainer/gguf/__init__.py",
        "trainer/gguf/llama_cpp_build.py",
    }
    for source, target in sources.items():
        path = tmp_path / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, path)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "built.json").write_text("{}")
    build = tmp_path / "build"
    command = [sys.executable, "-S", "-m", "trainer.gguf.llama_cpp_build", str(tools)]
    environment = {"PYTHONPATH": f"{build / 'functions'}:{build}"}
    ran = subprocess.run(command, cwd=build, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, str(tools)), ran.stderr
