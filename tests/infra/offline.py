"""Terraform without a network, with stand-ins for the providers.

The stand-ins are made once per machine, in the cache. `python -m tests.infra.offline plan` runs Terraform with them on
a copy of `terraform/`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tests.infra.environments import CommandFailed, cached, make_environment, run

ROOT = Path(__file__).parent.parent.parent
PROVIDER = Path(__file__).parent / "provider"
EXAMPLE = Path(__file__).parent / "example.tfvars"


@dataclass(frozen=True, slots=True)
class Wheel:
    """Package on PyPI that contains the schema of a provider.

    version: of the provider from which the package was generated.
    """

    package: str
    provider: str
    version: str
    only: str = ""  # pattern of the resources to read; all if empty


BETA_RESOURCES = "^google_(api_gateway|project_service_identity)"
WHEELS = (
    Wheel("cdktf-cdktf-provider-google==16.12.1", "google", "6.50.0"),
    Wheel("cdktf-cdktf-provider-google-beta==16.12.1", "google-beta", "6.50.0", only=BETA_RESOURCES),
    Wheel("cdktf-cdktf-provider-archive==11.0.1", "archive", "2.7.1"),
    Wheel("cdktf-cdktf-provider-time==11.0.1", "time", "0.13.1"),
)
PROJECT = "".join(path.read_text() for path in sorted(ROOT.glob("terraform/*.tf")))
USED = set(re.findall(r'^(?:resource|data) "(google_\w+)"', PROJECT, re.M))
# The same with the newest major version of Google's providers, which `terraform init -upgrade` chooses. Of its types
# only those that the project uses are read, since some of the others nest without end.
NEWEST = (
    Wheel("cdktn-provider-google==21.1.0", "google", "8.7.0", only=f"^({'|'.join(sorted(USED))})$"),
    Wheel("cdktn-provider-google-beta==21.1.0", "google-beta", "8.7.0", only=BETA_RESOURCES),
    *WHEELS[2:],
)


class NoTerraform(Exception):
    """Raised when Terraform is not installed. The text says what to do."""


def check_terraform() -> None:
    """Raise NoTerraform if Terraform is not installed."""
    if shutil.which("terraform") is None:
        raise NoTerraform(
            "there is no terraform on the PATH: install Terraform 1.9 or later "
            "(https://developer.hashicorp.com/terraform/install)"
        )


@lru_cache(maxsize=2)
def toolbox(wheels: Sequence[Wheel] = WHEELS) -> Path:
    """Return the folder with the stand-ins' environment and the schemas.

    Raises NoTerraform.
    """
    check_terraform()
    recipe = [repr(wheels), *((PROVIDER / name).read_text() for name in ("schema.py", "requirements.txt"))]
    return cached("terraform", recipe, partial(_make, wheels))


def _make(wheels: Sequence[Wheel], folder: Path) -> None:
    pip = make_environment(folder / "env", PROVIDER / "requirements.txt", "--no-deps")
    for wheel in wheels:
        with tempfile.TemporaryDirectory() as downloads:
            run([*pip, "download", "--no-deps", "--dest", downloads, wheel.package])
            (wheel_file,) = Path(downloads).glob("*.whl")
            schema = str(folder / f"{wheel.provider}.json")
            run(
                [
                    str(folder / "env" / "bin" / "python"),
                    str(PROVIDER / "schema.py"),
                    str(wheel_file),
                    wheel.only,
                    schema,
                ]
            )


def mirror(into: Path) -> Path:
    """Write a mirror of the registry with the stand-ins for Terraform.

    Returns the file of settings that names it.
    """
    platform = json.loads(run(["terraform", "version", "-json"]))["platform"]
    for wheel in WHEELS:
        place = into / "registry.terraform.io" / "hashicorp" / wheel.provider / wheel.version / platform
        place.mkdir(parents=True)
        program = place / f"terraform-provider-{wheel.provider}_v{wheel.version}"
        serve = [toolbox() / "env" / "bin" / "python", PROVIDER / "serve.py", toolbox() / f"{wheel.provider}.json"]
        program.write_text("#!/bin/sh\nexec " + " ".join(f"'{part}'" for part in serve) + "\n")
        program.chmod(0o755)
    settings = into / "terraform.rc"
    path = json.dumps(str(into))
    settings.write_text(f"provider_installation {{\n  filesystem_mirror {{\n    path = {path}\n  }}\n}}\n")
    return settings


class Providers:
    """Stand-ins for all providers in one process that many runs share.

    Otherwise each run of Terraform would start its own.
    """

    def __init__(self, wheels: Sequence[Wheel] = WHEELS) -> None:
        """Start the process. Raises NoTerraform."""
        tools = toolbox(wheels)
        serve = [tools / "env" / "bin" / "python", PROVIDER / "serve.py"]
        named = [f"registry.terraform.io/hashicorp/{wheel.provider}={tools / wheel.provider}.json" for wheel in wheels]
        self._process = subprocess.Popen([*serve, *named], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.environment = {"TF_REATTACH_PROVIDERS": self._read_line()}

    def enter(self, folder: Path) -> None:
        """Change to the folder that Terraform runs in next.

        Relative paths in a configuration start there.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        self._read_line()

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@dataclass(frozen=True, slots=True)
class Terraform:
    """Terraform in a copy of the project, without settings of the user.

    It finds the stand-ins in a process that already runs (`providers`), or in a mirror of the registry (`settings`).
    """

    folder: Path
    providers: Providers | None = None
    settings: Path = Path(os.devnull)

    def __call__(self, *arguments: str, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command. Raises CommandFailed if it fails, unless `may_fail`."""
        command = ["terraform", f"-chdir={self.folder}", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "GOOGLE_"))}
        environment |= {"TF_CLI_CONFIG_FILE": str(self.settings), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
        if self.providers is not None:
            self.providers.enter(self.folder)
            environment |= self.providers.environment
        ran = subprocess.run(command, capture_output=True, text=True, timeout=800, env=environment, check=False)
        if ran.returncode != 0 and not may_fail:
            raise CommandFailed(f"{' '.join(command)}\n{ran.stdout}{ran.stderr}")
        return ran

    def plan(self, *arguments: str) -> dict[str, Any]:
        """Return the plan in the format of `terraform show -json`.

        Required variables have example values.
        """
        self("plan", "-input=false", "-no-color", f"-var-file={EXAMPLE}", "-out=plan", *arguments)
        read: dict[str, Any] = json.loads(self("show", "-json", "plan").stdout)
        return read


def copy_of_project(into: Path) -> Path:
    """Copy all that terraform/ reads; return the copy of terraform/ itself."""
    left_out = shutil.ignore_patterns(".terraform*", ".build", "*.tfstate*", "*.tfvars", "*_override.tf", "plan")
    for name in ("terraform", "functions", "workflows"):
        shutil.copytree(ROOT / name, into / name, ignore=left_out, symlinks=True)
    return into / "terraform"


def main(arguments: Sequence[str]) -> int:
    """Run Terraform on a copy of the project and print its output.

    Returns its exit code.
    """
    try:
        check_terraform()
        return _run_on_copy(arguments)
    except (NoTerraform, CommandFailed) as error:
        print(error, file=sys.stderr)
        return 1


def _run_on_copy(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        settings = mirror(Path(folder) / "mirror")
        terraform = Terraform(copy_of_project(Path(folder)), settings=settings)
        terraform("init", "-input=false", "-no-color")
        variables = [f"-var-file={EXAMPLE}"] if arguments[:1] == ["plan"] else []
        ran = terraform(*arguments[:1], *variables, *arguments[1:], may_fail=True)
        print(ran.stdout + ran.stderr)
        return ran.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
