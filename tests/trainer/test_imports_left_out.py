"""What a process leaves out is not missed by what it uses."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gemtune.jobs.status import Step
from gemtune.request.spec import Spec, TrainingConfig
from tests.trainer.conftest import Bench
from trainer.process import imports

PROGRAM = """
import gc, sys
from gemtune.jobs.status import Step
from gemtune.request.spec import Spec
from trainer.process.imports import leave_out_unused, quickly
leave_out_unused(Step.TRAIN, Spec.model_validate_json(sys.argv[1]))
with quickly():
    from trainer import sft
    from trainer.model.engines import huggingface
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000
import pyarrow
assert pyarrow.table({"tokens": [[1, 2], [3]]}).to_pylist()[1] == {"tokens": [3]}
from trainer.training.tracking import tensorboard
print(*sorted(name for name in ("bitsandbytes", "datasets", "pandas", "trl") if sys.modules.get(name)))
"""


# What can be left out, and of torch's compiler a part without which it does nothing.
HEAVY = (
    "bitsandbytes", "datasets", "numba", "pandas", "peft", "pyarrow.compute", "pyarrow.dataset", "sympy", "torch",
    "torch._dynamo.symbolic_convert", "transformers", "trl",
)  # fmt: skip
AT_THE_END = f"""
import atexit, sys
atexit.register(lambda: print("LOADED", *(name for name in {HEAVY} if sys.modules.get(name))))
"""
STEP = AT_THE_END + "from trainer.__main__ import main; sys.exit(main())"
COMPARISON = AT_THE_END + "from trainer import comparison_process; comparison_process.main()"
# Before these, a training's process has imported transformers.
ASKING_FOR_THE_COMPILER = {
    "compile": "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item() == 2",
    "a part of it": "import torch._dynamo.config as config; assert torch._dynamo.config is config",
    "a part that nothing else needs": "from torch._dynamo.backends import cudagraphs",
    "a mask of its own kind": """
from transformers.masking_utils import sdpa_mask
seen = sdpa_mask(1, 4, 4, mask_function=lambda b, h, q, k: k == q, use_vmap=True, allow_is_causal_skip=False)
assert torch.equal(seen[0, 0], torch.eye(4, dtype=torch.bool))
""",
}


def loaded_by(program: str, *arguments: str, home: Path | None = None) -> list[str]:
    env = os.environ | ({} if home is None else {"GEMTUNE_HOME": str(home)})
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (said,) = (line for line in ran.stdout.splitlines() if line.startswith("LOADED"))
    return said.split()[1:]


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


def test_the_steps_of_a_job_load_only_what_they_use(bench: Bench) -> None:
    bench.job_id = bench.world.submit(training=bench.training | {"max_steps": 2})
    bench.services.dispatch.launch(bench.job_id)
    bench.services.control.claim(bench.job_id, bench.claim)
    of_job = ("--job-id", bench.job_id, "--launch", "1", "--execution", "e")
    found = {step: loaded_by(STEP, step, *of_job, home=bench.services.settings.home) for step in Step}
    assert found == {Step.PREPARE: [], Step.TRAIN: ["peft", "torch", "transformers"], Step.EXPORT: []}


def test_a_comparison_loads_no_compiler(tiny: Path, tmp_path: Path) -> None:
    case, result = tmp_path / "case.json", tmp_path / "result.json"
    model = {"base": str(tiny), "adapter": None, "format": "merged", "folder": str(tiny), "gguf": "", "tools": ""}
    rows = [{"input_ids": [2, 4, 6, 5], "labels": [-100, -100, 6, 5]}]
    case.write_text(json.dumps(model | {"rows": rows, "prompts": []}))
    assert "torch._dynamo.symbolic_convert" not in loaded_by(COMPARISON, str(case), str(result))
    assert json.loads(result.read_text())["positions"] == 2


@pytest.mark.parametrize("asking", ASKING_FOR_THE_COMPILER.values(), ids=ASKING_FOR_THE_COMPILER.keys())
def test_the_compiler_is_there_for_who_asks_for_it(asking: str) -> None:
    training = "from trainer import torch_parts; torch_parts.leave_out(); import torch, transformers"
    assert "torch._dynamo.symbolic_convert" in loaded_by(AT_THE_END + training + "\n" + asking)


def test_loading_needs_no_symbols_and_changes_no_bit(tiny: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    loading = f"""
from trainer import imports, torch_parts
imports.leave_out(bitsandbytes=True, datasets=True)
torch_parts.leave_out()
import torch
from transformers import AutoModelForCausalLM
from trainer.process.shapes_without_symbols import shapes_without_symbols
with shapes_without_symbols():
    model = AutoModelForCausalLM.from_pretrained({str(tiny)!r})
kept = dict(model.named_parameters()) | dict(model.named_buffers())
torch.save({{name: tensor.detach() for name, tensor in kept.items()}}, {str(tiny / "loaded.pt")!r})
from transformers.trainer_optimizer import has_mixed_dtensor
assert not has_mixed_dtensor(model.parameters())
"""
    assert loaded_by(AT_THE_END + loading) == ["peft", "torch", "transformers"]
    found, plain = torch.load(tiny / "loaded.pt"), AutoModelForCausalLM.from_pretrained(tiny)
    expected = dict(plain.named_parameters()) | dict(plain.named_buffers())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
