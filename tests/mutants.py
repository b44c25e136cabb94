"""Mutation testing: `python -m tests.mutants PLACE… [--count N] [--seed S]`.

A mutant is one module with one small change: a constant, a comparison, a removed `not`, statement or table entry.
Each mutant of a random sample is tried in a copy of the repository by the fast tests nearest to it. A mutant that
survives is printed: either its change has no visible effect, or a test is missing. PLACE is a module or a folder of
modules, such as `gemtune.jobs` or `trainer.rows.packing`. Exits with 1 when a mutant survived.
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

# Prefix of module names -> the fast tests nearest to them, below tests/. The longest prefix applies.
NEAREST: Mapping[str, str] = {
    "gemtune.jobs": "unit/jobs unit/source_tree/test_documented_tables unit/docs/test_reference "
    "contract/test_other_versions handlers/test_status "
    "services/test_lifetimes services/test_running services/test_dispatch services/test_clocks "
    "services/test_pausing services/test_base_job",
    "gemtune.admission": "unit/admission unit/jobs services/test_pausing services/test_waiting",
    "gemtune.admission.damaged_slots": "services/test_damaged_slots",
    "gemtune.jobs.page_tokens": "handlers/test_http_api handlers/test_endpoints",
    "gemtune.jobs.secret_names": "unit/jobs unit/request/test_secrets_of_requests services/test_lifetimes "
    "services/test_messages",
    "gemtune.request": "unit/request unit/docs/test_reference unit/source_tree/test_tied_tables "
    "services/test_gguf_requests services/test_submit services/test_placement",
    "gemtune.machines": "unit/machines services/test_placement",
    "gemtune.webhooks": "unit/webhooks services/test_notify",
    "gemtune.untrusted": "unit/test_untrusted unit/request/test_job_file",
    "gemtune.untrusted.damaged": "services/test_damaged_slots services/test_budgets",
    "gemtune.log_lines": "unit/embedded/test_disk",
    "gemtune.local_server.http_server": "unit/local_server/test_http_server",
    "gemtune.embedded": "unit/embedded contract handlers/test_http_api",
    "gemtune.services": "services/test_amounts services/test_sweep services/test_control services/test_lifetimes "
    "services/test_messages services/test_dispatch services/test_running services/test_submit services/test_ingest "
    "services/test_notify services/test_export_again services/test_placement services/test_clocks "
    "services/test_stored_names",
    "gemtune.services.acceptance": "services/test_amounts services/test_messages services/test_algorithm_of_rows "
    "services/test_submit services/test_export_again services/test_base_job services/test_placement "
    "services/test_reads services/test_gguf_requests services/test_planning services/test_budgets "
    "services/test_stored_names",
    "gemtune.services.advance": "services/test_amounts services/test_lifetimes services/test_messages "
    "services/test_running services/test_clocks services/test_export_again services/test_pausing services/test_caps "
    "services/test_budgets",
    "gemtune.services.budgets": "services/test_amounts services/test_budgets services/test_caps "
    "services/test_caps_under_kills services/test_stored_names services/test_newer_documents",
    "gemtune.services.cleanup": "services/test_amounts services/test_sweep services/test_sweep_limits "
    "services/test_lifetimes services/test_messages contract/test_other_versions",
    "gemtune.services.control": "services/test_amounts services/test_control services/test_running "
    "services/test_pausing services/test_lifetimes services/test_clocks services/test_dispatch services/test_planning "
    "services/test_waiting services/test_caps services/test_budgets",
    "gemtune.services.delete": "services/test_amounts services/test_running services/test_lifetimes "
    "services/test_messages contract/test_other_versions",
    "gemtune.services.datasets": "services/test_amounts handlers/test_datasets handlers/test_checks "
    "handlers/test_dataset_rows services/test_lifetimes services/test_submit services/test_algorithm_of_rows "
    "services/test_stored_names services/test_newer_documents",
    "gemtune.services.logs": "services/test_amounts services/test_logs contract/test_logs",
    "gemtune.services.machine_slots": "services/test_amounts services/test_control services/test_pausing "
    "services/test_waiting services/test_stored_names services/test_newer_documents services/test_damaged_slots",
    "gemtune.services.pause": "services/test_amounts services/test_pausing services/test_caps services/test_budgets",
    "gemtune.services.planning": "services/test_amounts services/test_planner services/test_planning "
    "services/test_dataset_amounts services/test_caps services/test_base_models handlers/test_http_api",
    "gemtune.services.stop_executions": "services/test_amounts services/test_sweep services/test_running "
    "services/test_pausing services/test_waiting contract/test_other_versions",
    "gemtune.services.fan_out": "services/test_amounts services/test_messages services/test_notify "
    "services/test_running services/test_dispatch",
    "gemtune.services.ingest": "services/test_amounts services/test_messages services/test_ingest",
    "gemtune.services.notify": "services/test_amounts services/test_notify services/test_messages",
    "gemtune.services.sweep": "services/test_amounts services/test_sweep services/test_sweep_limits "
    "services/test_lifetimes services/test_messages services/test_clocks services/test_running services/test_dispatch "
    "services/test_submit services/test_pausing",
    "gemtune.training_files": "handlers/test_checkpoint_list handlers/test_answers trainer/store/test_checkpoints",
    "gemtune.handlers": "unit/docs/test_reference handlers/test_answers handlers/test_endpoints "
    "handlers/test_error_answers handlers/test_http_api handlers/test_callers handlers/test_status "
    "handlers/test_datasets handlers/test_checks handlers/test_dataset_rows services/test_budgets "
    "services/test_pausing",
    "gemtune.handlers.cloud_events": "handlers/test_events",
    "gemtune.handlers.control_api": "handlers/test_answers handlers/test_events workflows/test_fine_tune",
    "trainer.conversation": "trainer/conversation trainer/steps/test_prepare",
    "trainer.dataset": "trainer/dataset",
    "trainer.rendering": "trainer/rendering trainer/rows",
    "trainer.rows": "trainer/rows trainer/steps/test_prepare trainer/steps/test_prepare_rl",
    "trainer.splits": "trainer/steps/test_prepare trainer/steps/test_prepare_report",
    "trainer.store": "trainer/store",
    "trainer.training": "trainer/training/test_metrics trainer/steps/test_train",
    "trainer.training.metrics": "trainer/training/test_metrics",
    "trainer.training.progress": "trainer/training/test_progress",
    "trainer.training.batches": "trainer/training/test_batches",
    "trainer.training.job_trainer": "trainer/training/test_job_trainer",
    "trainer.training.best_weights": "trainer/training/test_job_trainer trainer/training/test_best_weights",
    "trainer.training.preference.dpo": "trainer/training/test_dpo",
    "trainer.training.grpo": "trainer/training/test_grpo trainer/training/test_rl_vision",
    "trainer.training.preference.kto": "trainer/training/test_kto",
    "trainer.training.preference.scores": "trainer/training/test_dpo trainer/training/test_kto",
    "trainer.training.preference.scoring": "trainer/training/test_dpo trainer/training/test_kto",
    "trainer.training.reinforcement": "trainer/training/test_dpo trainer/training/test_grpo "
    "trainer/new_tokens/test_training",
    "trainer.training.picture_batches": "trainer/training/test_vision",
    "trainer.training.sft": "trainer/training/test_metrics trainer/model/on_cpu/test_row_parallel "
    "trainer/steps/test_train",
    "trainer.training.tracking": "trainer/training/test_tracking",
}


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
    """Return the tests of the longest prefix in the table. Raises KeyError."""
    names = [name for name in NEAREST if f"{module}.".startswith(f"{name}.")]
    if not names:
        raise KeyError(f"no tests are named for {module}: add them to NEAREST")
    places = [ROOT / "tests" / place for place in NEAREST[max(names, key=len)].split()]
    return [(place if place.is_dir() else place.with_suffix(".py")).relative_to(ROOT).as_posix() for place in places]


def modules_in(place: str, root: Path = ROOT) -> Iterator[tuple[str, Path]]:
    """Yield name and path of a module, or of all modules in a folder.

    Raises ValueError when there is no such module or folder.
    """
    parent = Path("functions") if place.startswith("gemtune") else Path()
    path = parent / place.replace(".", "/")
    paths = sorted((root / path).rglob("*.py")) or [root / path.with_suffix(".py")]
    for each in paths:
        if not each.is_file():
            raise ValueError(f"there is no {place}")
        relative = each.relative_to(root)
        yield ".".join(relative.relative_to(parent).with_suffix("").parts).removesuffix(".__init__"), relative


def sample(places: Sequence[str], count: int, seed: int, root: Path = ROOT) -> list[Mutant]:
    """Return a random sample of the mutants of these places, sorted by module.

    The same seed gives the same sample.
    """
    mutants = [
        Mutant(module, path, number)
        for place in places
        for module, path in modules_in(place, root)
        for number in range(len(mutations_of((root / path).read_text())))
    ]
    chosen = random.Random(seed).sample(mutants, min(count, len(mutants)))
    return sorted(chosen, key=lambda mutant: (mutant.module, mutant.number))


@dataclass(slots=True)
class Shadow:
    """Copy of the repository in which mutants are tried."""

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
        """Return whether a test fails with this mutant, or takes far longer."""
        limit = self._limit(mutant.tests)
        target = self.root / mutant.path
        source = target.read_text()
        target.write_text(mutated(source, mutant.number))
        try:
            return self._run(mutant.tests, limit) != 0
        except subprocess.TimeoutExpired:
            return True
        finally:
            target.write_text(source)

    def _limit(self, tests: Sequence[str]) -> float:
        """Return the time limit of these tests in seconds.

        Raises RuntimeError when they fail without a mutant.
        """
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
            [sys.executable, *pytest],
            cwd=self.root,
            env=environment,
            timeout=limit,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).returncode


def main() -> int:
    """Try the mutants. Returns the exit code: 1 when a mutant survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("places", nargs="+", metavar="PLACE")
    parser.add_argument("--count", type=int, default=30, help="how many mutants to try")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    survivors: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        shadow = Shadow.made_in(Path(folder))
        mutants = sample(arguments.places, arguments.count, arguments.seed, shadow.root)
        for mutant in mutants:
            change = mutations_of((shadow.root / mutant.path).read_text())[mutant.number]
            text = f"{mutant.path}:{change.line}: {change.what}"
            started, killed = time.monotonic(), shadow.is_killed(mutant)
            print(f"{'killed  ' if killed else 'SURVIVED'} {time.monotonic() - started:5.1f} s  {text}", flush=True)
            survivors += [] if killed else [text]
    print(f"\n{len(mutants) - len(survivors)} of {len(mutants)} killed", *survivors, sep="\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
