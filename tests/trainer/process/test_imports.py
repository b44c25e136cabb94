"""Libraries that the process of a step loads, and leaves unchanged."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from gemtune.jobs.status import Step
from tests.trainer.conftest import Bench
from trainer.process.imports import garbage_collection_paused

HEAVY = ("bitsandbytes", "datasets", "numba", "peft", "torch", "transformers", "trl")
PRINT_LOADED = f"""
import atexit, sys
atexit.register(lambda: print("LOADED", *(name for name in {HEAVY} if name in sys.modules)))
"""
STEP = "from trainer.__main__ import main; sys.exit(main())"
# Records every function and class in the libraries' modules, and the members of classes, right after import; when the
# process ends, prints those that have been replaced.
COMPARE_LIBRARIES = """
import atexit, sys, types
import datasets, peft, torch, transformers, trl, accelerate
from transformers import AutoModelForCausalLM, Trainer
from transformers.models.gemma3 import modeling_gemma3

WATCHED = {"accelerate", "datasets", "functools", "peft", "torch", "transformers", "trl"}

def defined():
    objects = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in WATCHED:
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)):
                objects[name, attribute] = value
            if isinstance(value, type) and value.__module__ == name:
                members = [(key, member) for key, member in vars(value).items() if callable(member)]
                objects |= {(name, f"{attribute}.{key}"): member for key, member in members}
    return objects

before = defined()

def compare():
    after = defined()
    print("COMPARED", len(before))
    for place, value in before.items():
        if after.get(place) is not value:
            print("REPLACED", *place)

atexit.register(compare)
"""


def output_of_step(bench: Bench, step: Step, first: str) -> list[str]:
    """Run a step in a process, after `first`; return the lines it prints."""
    arguments = [step, "--job-id", bench.job_id, "--launch", "1", "--execution", "e"]
    env = os.environ | {"GEMTUNE_HOME": str(bench.services.settings.home)}
    command = [sys.executable, "-c", first + STEP, *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout.splitlines()


def submit(bench: Bench) -> None:
    bench.job_id = bench.world.submit(training=bench.training | {"max_steps": 2})
    bench.services.dispatch.launch(bench.job_id)
    bench.services.control.claim(bench.job_id, bench.claim)


def test_a_step_loads_only_the_libraries_it_needs(bench: Bench) -> None:
    """Prepare and adapter exports need no torch; SFT needs no TRL or datasets."""
    submit(bench)
    loaded: dict[Step, set[str]] = {}
    for step in Step:
        (line,) = (line for line in output_of_step(bench, step, PRINT_LOADED) if line.startswith("LOADED"))
        loaded[step] = set(line.split()[1:])
    assert loaded[Step.PREPARE] == loaded[Step.EXPORT] == set()
    assert {"peft", "torch", "transformers"} <= loaded[Step.TRAIN]
    assert not {"numba", "trl"} & loaded[Step.TRAIN]


def test_training_replaces_nothing_in_any_library(bench: Bench) -> None:
    submit(bench)
    output_of_step(bench, Step.PREPARE, "import sys\n")
    lines = output_of_step(bench, Step.TRAIN, COMPARE_LIBRARIES)
    (compared,) = (int(line.split()[1]) for line in lines if line.startswith("COMPARED"))
    assert compared > 50_000
    assert [line for line in lines if line.startswith("REPLACED")] == []


def test_garbage_collection_resumes_even_if_an_import_fails() -> None:
    def fails() -> None:
        with garbage_collection_paused():
            assert not gc.isenabled()
            raise ImportError

    with pytest.raises(ImportError):
        fails()
    assert gc.isenabled()


def test_imported_objects_are_frozen() -> None:
    code = """
import gc
from trainer.process.imports import garbage_collection_paused
with garbage_collection_paused():
    import transformers
assert gc.isenabled()
assert gc.get_freeze_count() > 10_000
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_frozen_if_nothing_was_imported() -> None:
    frozen = gc.get_freeze_count()
    with garbage_collection_paused():
        pass
    assert gc.get_freeze_count() == frozen
