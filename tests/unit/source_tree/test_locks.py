"""Lock files: complete, consistent with pyproject.toml, and with all hashes."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.lock import CONSTRAINTS, LOCKS, ROOT, WITHOUT_HASHES, Lock

NAMES = [str(lock.path.relative_to(ROOT)) for lock in LOCKS]
BY_NAME = dict(zip(NAMES, LOCKS, strict=True))


def pins_of(path: Path) -> dict[str, tuple[Requirement, list[str]]]:
    """Return the requirement of each package in a lock file.

    With each come the SHA-256 hashes that its files may have.
    """
    text = path.read_text().replace("\\\n", " ")
    pins = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line.partition(" --hash")[0])
            hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})(?!\S)", line)
            assert len(hashes) == line.count("--hash"), f"{path.name}: {requirement.name} has a hash that is none"
            pins[canonicalize_name(requirement.name)] = (requirement, hashes)
    return pins


def own_pins(lock: Lock) -> dict[str, Requirement]:
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lock.requirements())}


@pytest.mark.parametrize("lock", LOCKS, ids=NAMES)
def test_a_lock_has_every_pin_of_the_project_that_it_starts_from(lock: Lock) -> None:
    pins = pins_of(lock.path)
    for name, pin in own_pins(lock).items():
        if name not in WITHOUT_HASHES:
            assert name in pins, f"{pin} is not in {lock.path.name}: run make lock"
            assert pins[name][0].specifier == pin.specifier, f"{pin} is {pins[name][0]} there: run make lock"


@pytest.mark.parametrize("lock", LOCKS, ids=NAMES)
def test_every_package_is_pinned_to_one_version_and_has_hashes(lock: Lock) -> None:
    pins = pins_of(lock.path)
    assert pins
    assert not {*WITHOUT_HASHES} & {*pins}  # its builds are served by several indexes, with other hashes each
    for name, (requirement, hashes) in pins.items():
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert hashes, f"{name} has no hash"
        assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.dependencies], ids=lambda lock: lock.path.name)
def test_locks_agree_with_the_constraints(lock: Lock) -> None:
    constraints = pins_of(CONSTRAINTS)
    for name, (requirement, _) in pins_of(lock.path).items():
        assert requirement.specifier == constraints[name][0].specifier


# Packages that torch's build for CUDA brings along, where pip's index has no other build.
OF_CUDA = re.compile(r"triton$|nvidia-|cuda-")


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.dependencies], ids=lambda lock: lock.path.name)
def test_a_lock_has_all_that_its_packages_need(lock: Lock) -> None:
    """Follow the dependencies of all packages, as pip runs with --no-deps."""
    pins = pins_of(lock.path)
    pending = list(own_pins(lock).values())
    visited: set[tuple[str, frozenset[str]]] = set()
    while pending:
        requirement = pending.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in visited or (requirement.marker is not None and not requirement.marker.evaluate()):
            continue
        visited.add((name, extras))
        if name not in WITHOUT_HASHES:
            assert name in pins, f"{name} is not in {lock.path.name}: run make lock"
            assert requirement.specifier.contains(str(pins[name][0].specifier)[2:], prereleases=True), requirement
        for line in metadata.requires(name) or []:
            dependency = Requirement(line)
            marker, dependency.marker = dependency.marker, None
            is_of_cuda = name == "torch" and OF_CUDA.match(dependency.name) is not None
            if not is_of_cuda and (
                marker is None or any(marker.evaluate({"extra": extra}) for extra in (extras or {""}))
            ):
                pending.append(dependency)
    assert len(visited) > len(lock.requirements())


def test_each_place_gets_what_it_needs_and_no_more() -> None:
    names = {name: set(pins_of(lock.path)) for name, lock in BY_NAME.items()}
    functions, trainer = names["functions/requirements.txt"], names["trainer/requirements.txt"]
    assert "functions-framework" in functions
    assert "transformers" in trainer
    assert not functions & {"torch", "transformers"}
    assert not any("unsloth" in package for package in functions | trainer)  # AGPL-3.0, LGPL-3.0
    assert "liger-kernel" not in trainer  # it needs triton, and with it a GPU
    assert names["trainer/gpu.txt"] == {"liger-kernel"}
    assert names["trainer/timm.txt"] == {"timm"}
    assert not trainer & {"timm", "torchvision"}  # a torchvision of another build breaks transformers
    assert "unsloth" in names["trainer/unsloth.txt"]
    service, demo, tests = (names[f"setup/locked/{name}.txt"] for name in ("service", "demo", "tests"))
    assert service < demo < tests
    assert "pytest" not in demo


def test_torch_in_the_locks_metadata_is_the_torch_that_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (torch,) = project["tool"]["uv"]["dependency-metadata"]
    assert f"torch=={torch['version']}" in project["project"]["optional-dependencies"]["training"]
    declared = {Requirement(line).name for line in metadata.requires("torch") or [] if "extra ==" not in line}
    cuda = {name for name in declared if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert {canonicalize_name(name) for name in declared - cuda} == set(torch["requires-dist"])
