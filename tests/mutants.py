"""`python -m tests.mutants PLACE… [--count N] [--seed S]`: what could be broken without a fast test noticing.

A mutant is one module with one small change: a constant, a comparison, a removed `not`, statement or table entry.
Each of a random sample is tried in a copy of the repository by the fast tests nearest to it. A mutant that they pass
is printed: it changes nothing that anybody could see, or a test is missing. PLACE is a module or a folder of modules,
as in `gemtune.jobs` or `trainer.rows.packing`. Exits with 1 when a mutant survived.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutations import mutated, mutations_of

ROOT = Path(__file__).parent.parent

# The fast tests nearest to a module: those of the longest name that it begins with.
NEAREST: Mapping[str, str] = {
    "gemtune.jobs": "tests/unit/test_job.py tests/unit/test_job_changes.py tests/services/test_running.py tests/services/test_dispatch.py",
    "gemtune.request": "tests/unit/test_request.py tests/unit/test_rl_request.py tests/unit/test_job_file.py "
                       "tests/services/test_submit.py tests/services/test_gguf_requests.py",
    "gemtune.machines": "tests/unit/test_machines.py tests/unit/test_cost.py tests/services/test_placement.py",
    "gemtune.webhooks": "tests/unit/test_webhook.py tests/services/test_notify.py",
    "gemtune.embedded": "tests/contract tests/unit/test_database.py tests/unit/test_sqlite_bus.py",
    "gemtune.services": "tests/services/test_dispatch.py tests/services/test_running.py "
                        "tests/services/test_submit.py tests/services/test_ingest.py tests/services/test_notify.py "
                        "tests/services/test_export_again.py tests/services/test_placement.py",
    "gemtune.handlers": "tests/handlers",
    "trainer.rows": "tests/trainer/test_rendering.py tests/trainer/test_rewards.py tests/trainer/test_prepare.py "
                    "tests/trainer/test_prepare_rl.py",
    "trainer.store": "tests/trainer/test_manifest.py tests/trainer/test_checkpoints.py",
    "trainer.training.metrics": "tests/trainer/test_metrics.py",
    "trainer.training.best_weights": "tests/trainer/test_best_weights.py",
    "trainer.training.dpo": "tests/trainer/test_dpo.py",
    "trainer.training.grpo": "tests/trainer/test_grpo.py",
    "trainer.training.tracking": "tests/trainer/test_tracking.py",
    "trainer.training": "tests/trainer/test_metrics.py tests/trainer/test_train.py",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module."""

    module: str
    path: Path  # in the repository
    number: int  # among the module's mutations

    @property
    def tests(self) -> Sequence[str]:
        return nearest_tests(self.module)


def nearest_tests(module: str) -> Sequence[str]:
    """The tests of the longest name in the table that the module's name begins with. Raises KeyError."""
    names = [name for name in NEAREST if f"{module}.".startswith(f"{name}.")]
    if not names:
        raise KeyError(f"no tests are named for {module}: add them to NEAREST")
    return NEAREST[max(names, key=len)].split()


def modules_in(place: str) -> Iterator[tuple[str, Path]]:
    """Name and path of a module, or of all modules in a folder. Raises ValueError when there is no such place."""
    parent = Path("functions") if place.startswith("gemtune") else Path()
    path = parent / place.replace(".", "/")
    paths = sorted((ROOT / path).rglob("*.py")) or [ROOT / path.with_suffix(".py")]
    for each in paths:
        if not each.is_file():
            raise ValueError(f"there is no {place}")
        relative = each.relative_to(ROOT)
        yield ".".join(relative.relative_to(parent).with_suffix("").parts).removesuffix(".__init__"), relative


def sample(places: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Some mutants of these places, the same for the same seed, ordered by module."""
    mutants = [
        Mutant(module, path, number)
        for place in places
        for module, path in modules_in(place)
        for number in range(len(mutations_of((ROOT / path).read_text())))
    ]
    chosen = random.Random(seed).sample(mutants, min(count, len(mutants)))
    return sorted(chosen, key=lambda mutant: (mutant.module, mutant.number))


@dataclass(slots=True)
class Shadow:
    """A copy of the repository in which mutants are tried."""

    root: Path
    limits: dict[tuple[str, ...], float]  # seconds for each set of tests that passes without a mutant

    @classmethod
    def made_in(cls, folder: Path) -> Shadow:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        return cls(folder, {})

    def is_killed(self, mutant: Mutant) -> bool:
        """Whether a test fails with this mutant, or takes far longer."""
        limit = self._limit(mutant.tests)
        target, source = self.root / mutant.path, (ROOT / mutant.path).read_text()
        target.write_text(mutated(source, mutant.number))
        try:
            return self._run(mutant.tests, limit) != 0
        except subprocess.TimeoutExpired:
            return True
        finally:
            target.write_text(source)

    def _limit(self, tests: Sequence[str]) -> float:
        """Raises RuntimeError when the tests fail as it is."""
        key = tuple(tests)
        if key not in self.limits:
            started = time.monotonic()
            if self._run(tests, None) != 0:
                raise RuntimeError(f"these fail without a mutant: {' '.join(tests)}")
            self.limits[key] = 3 * (time.monotonic() - started) + 30
        return self.limits[key]

    def _run(self, tests: Sequence[str], limit: float | None) -> int:
        pytest = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not gpu and not emulators", *tests]
        environment = os.environ | {
            "PYTHONPATH": f"{self.root / 'functions'}:{self.root}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self.root / ".hypothesis"),
        }
        return subprocess.run(
            [sys.executable, *pytest], cwd=self.root, env=environment, timeout=limit, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ).returncode  # fmt: skip


def main() -> int:
    """Returns the exit code: 1 when a mutant survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("places", nargs="+", metavar="PLACE")
    parser.add_argument("--count", type=int, default=30, help="how many mutants to try")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    mutants = sample(arguments.places, arguments.count, arguments.seed)
    survivors: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        shadow = Shadow.made_in(Path(folder))
        for mutant in mutants:
            change = mutations_of((ROOT / mutant.path).read_text())[mutant.number]
            text = f"{mutant.path}:{change.line}: {change.what}"
            started, killed = time.monotonic(), shadow.is_killed(mutant)
            print(f"{'killed  ' if killed else 'SURVIVED'} {time.monotonic() - started:5.1f} s  {text}", flush=True)
            survivors += [] if killed else [text]
    print(f"\n{len(mutants) - len(survivors)} of {len(mutants)} killed", *survivors, sep="\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
