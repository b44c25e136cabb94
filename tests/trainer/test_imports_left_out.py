"""What a training leaves out is not missed by what it uses."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import pytest

from gemtune.spec import Spec, TrainingConfig
from trainer import imports

PROGRAM = """
import gc, sys
from gemtune.job import Step
from gemtune.spec import Spec
from trainer.imports import leave_out_unused, quickly
leave_out_unused(Step.TRAIN, Spec.model_validate_json(sys.argv[1]))
with quickly():
    from trainer import sft
    from trainer.engines import huggingface
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000
import pyarrow
assert pyarrow.table({"tokens": [[1, 2], [3]]}).to_pylist()[1] == {"tokens": [3]}
from trainer.tracking import tensorboard
print(*sorted(name for name in ("bitsandbytes", "datasets", "pandas", "trl") if sys.modules.get(name)))
"""


def spec(**training: Any) -> Spec:
    config = TrainingConfig.model_validate({"base_model_id": "google/gemma-3-270m"} | training)
    return Spec(processed_dataset_id="chats", training_config=config)


@pytest.mark.parametrize(("training", "loaded"), [({}, ""), ({"method": "QLoRA"}, "bitsandbytes")])
def test_a_training_imports_only_what_it_uses(training: dict[str, Any], loaded: str) -> None:
    arguments = [sys.executable, "-c", PROGRAM, spec(**training).model_dump_json()]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == loaded.split()


def test_garbage_is_looked_for_again_even_when_an_import_fails() -> None:
    def fails() -> None:
        with imports.quickly():
            assert not gc.isenabled()
            raise ImportError

    with pytest.raises(ImportError):
        fails()
    assert gc.isenabled()


def test_where_nothing_is_imported_garbage_is_still_found() -> None:
    frozen = gc.get_freeze_count()
    with imports.quickly():
        pass
    assert gc.get_freeze_count() == frozen
