"""Machine types for training, and the choice of one for a job. Pure.

Cloud Run sets the limits: one GPU per instance, an L4 with at most 8 CPUs and 32 GiB, an RTX PRO 6000 with at least 20
CPUs and 80 GiB. For each machine of a deployment Terraform creates the Cloud Run job `gemtune-train-<name>` with these
CPUs and this memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gemtune.errors import NeedsLargerMachine
from gemtune.families import size_by_name
from gemtune.families.size import ModelSize
from gemtune.machines.memory import MemoryNeed, TrainingLoad, memory_for_training
from gemtune.methods import Method


@dataclass(frozen=True, slots=True)
class Machine:
    """Machine type.

    gpu: the accelerator's name on Cloud Run; None without one.
    gpu_gib: GPU memory that a process can use.
    image: build of trainer/Dockerfile whose version of torch works with the machine's GPU driver.
    """

    cpus: int
    memory_gib: int
    gpu: str | None = None
    gpu_gib: float = 0.0
    image: str = "cpu"

    def has(self, need: MemoryNeed) -> bool:
        """Return whether this machine has the memory for a train step."""
        if self.gpu is None:
            return need.host_without_gpu <= self.memory_gib
        return need.gpu <= self.gpu_gib and need.host_with_gpu <= self.memory_gib


# The workstation of the embedded backend. There is nothing to choose; too little memory is a warning.
LOCAL = "local"

MACHINES: Mapping[str, Machine] = {
    "cpu": Machine(cpus=8, memory_gib=32),
    "l4": Machine(cpus=8, memory_gib=32, gpu="nvidia-l4", gpu_gib=22.0, image="cu126"),
    "rtx-pro-6000": Machine(cpus=20, memory_gib=80, gpu="nvidia-rtx-pro-6000", gpu_gib=94.0, image="cu130"),
}


# Machines of the other steps. Terraform gives their Cloud Run jobs these CPUs and this memory.
CPU_STEPS: Mapping[str, Machine] = {
    "prepare": Machine(cpus=4, memory_gib=16),
    "export": Machine(cpus=8, memory_gib=32),
}


# Training machines with more memory than the usual machine of exports. A deployment with one of them also has the
# Cloud Run job `gemtune-export-<name>`.
WITH_MORE_MEMORY = tuple(
    name for name, machine in MACHINES.items() if machine.memory_gib > CPU_STEPS["export"].memory_gib
)

# Models that are proposed where nothing else fits, from the largest to the smallest.
SMALLER_MODELS = tuple(f"google/gemma-3-{size}-it" for size in ("27b", "12b", "4b", "1b", "270m"))


def choose_machine(
    machines: Sequence[str], requested: str | None, size: ModelSize | None, load: TrainingLoad
) -> str | None:
    """Choose the machine for the train step.

    That is the requested one, or else the first with enough memory. Returns None if the model's size is unknown and no
    machine is requested: then the prepare step, which has the weights, chooses.
    machines: names of the deployment's machines, in order of preference.
    Raises NeedsLargerMachine, whose hint says which change of the request would fit.
    """
    candidates = machines if requested is None else (requested,)
    if LOCAL in candidates:
        return LOCAL
    if size is None:
        return requested
    need = memory_for_training(size, load)
    fitting = next((name for name in candidates if MACHINES[name].has(need)), None)
    if fitting is None:
        raise NeedsLargerMachine(_lacking(candidates, need), hint=_advice(machines, requested, size, load))
    return fitting


def choose_export_machine(machines: Sequence[str], needed_gib: float) -> str | None:
    """Choose a machine with enough main memory for an export.

    Returns None for the usual CPU machine of exports, or else the name of a training machine that has more memory.
    machines: names of the deployment's training machines. Raises NeedsLargerMachine.
    """
    usual = CPU_STEPS["export"].memory_gib
    if LOCAL in machines or needed_gib <= usual:
        return None
    large = [name for name in WITH_MORE_MEMORY if needed_gib <= MACHINES[name].memory_gib]
    chosen = next((name for name in machines if name in large), None)
    if chosen is None:
        message = f"this export needs {needed_gib:.1f} GiB of main memory; the machine for exports has {usual}"
        elsewhere = f"; or deploy machine {large[0]}" if large else ""
        raise NeedsLargerMachine(message, hint=f"use format adapter or merged, or a smaller base model{elsewhere}")
    return chosen


def _lacking(candidates: Sequence[str], need: MemoryNeed) -> str:
    """Say which memory is missing, and how much the largest machine has."""
    largest = max(candidates, key=lambda name: (MACHINES[name].gpu_gib, MACHINES[name].memory_gib))
    machine = MACHINES[largest]
    kinds: list[tuple[str, float, float]]
    if machine.gpu is None:
        kinds = [("main memory", need.host_without_gpu, machine.memory_gib)]
    else:
        kinds = [("GPU memory", need.gpu, machine.gpu_gib), ("main memory", need.host_with_gpu, machine.memory_gib)]
    missing = [
        f"{needed:.1f} GiB of {kind} (machine {largest} has {available:g})"
        for kind, needed, available in kinds
        if needed > available
    ]
    return f"it needs {' and '.join(missing)}"


def _advice(machines: Sequence[str], requested: str | None, size: ModelSize, load: TrainingLoad) -> str:
    """Say which changes of the request would fit, the smallest change first."""
    candidates = machines if requested is None else (requested,)
    changes = [f"machine {name}" for name in _fitting(machines, size, load) if name != requested][:1]
    changes += smallest_changes(words for words, smaller in smaller_loads(load) if _fitting(candidates, size, smaller))
    if not changes:
        combined = (words for words, smaller in _combined_changes(load) if _fitting(candidates, size, smaller))
        changes = [*itertools.islice(combined, 1)]
    elsewhere = [name for name in _fitting(list(MACHINES), size, load) if name not in machines]
    if changes:
        advice = f"this would fit: {', or '.join(changes)}"
    else:
        model = smaller_model(size, load, lambda need: any(MACHINES[name].has(need) for name in candidates))
        advice = "use a smaller base model" + ("" if model is None else f", such as {model}")
    return f"{advice}; or deploy machine {elsewhere[0]}" if elsewhere else advice


def smallest_changes(changes: Iterable[str]) -> list[str]:
    """Return the changes without those that only add to an earlier one."""
    smallest: list[str] = []
    for words in changes:
        if not any(words.startswith(f"{fewer} and ") for fewer in smallest):
            smallest.append(words)
    return smallest


def smaller_model(size: ModelSize, load: TrainingLoad, has: Callable[[MemoryNeed], bool]) -> str | None:
    """Return the largest of the common models that is smaller and fits.

    has: whether there is so much memory. None if there is no such model, or none that reads the media of the request.
    """
    for name in SMALLER_MODELS:
        other = size_by_name(name)
        reads = load.modality == "text" or (load.modality == "vision" and other is not None and other.tower.layers > 0)
        if other is not None and other.parameters < size.parameters and reads and has(memory_for_training(other, load)):
            return name
    return None


def _fitting(machines: Sequence[str], size: ModelSize, load: TrainingLoad) -> list[str]:
    """Return the machines that a training fits on."""
    need = memory_for_training(size, load)
    return [name for name in machines if MACHINES[name].has(need)]


def smaller_loads(load: TrainingLoad) -> Iterator[tuple[str, TrainingLoad]]:
    """Yield changes of a request that need less memory, and their loads.

    The words are fields of the request with their values.
    """
    small, batch_size = replace(load, batch_size=load.least_batch), _least_batch(load)
    if load.batch_size > load.least_batch:
        yield batch_size, small
    for length in itertools.islice(_shorter(load), 1):
        yield f"max_seq_length {length}", replace(load, length=length)
        yield f"{batch_size} and max_seq_length {length}", replace(small, length=length)
    if load.method == "Full":
        yield "method LoRA", replace(load, method="LoRA")
    if load.method in ("Full", "LoRA"):
        yield "method QLoRA", replace(load, method="QLoRA")
        yield f"method QLoRA and {batch_size}", replace(small, method="QLoRA")


def _combined_changes(load: TrainingLoad) -> Iterator[tuple[str, TrainingLoad]]:
    """Yield larger changes, for where none of `smaller_loads` fits."""
    methods: tuple[Method, ...] = ("LoRA", "QLoRA") if load.method == "Full" else ("QLoRA",)
    for method in (load.method, *(methods if load.method in ("Full", "LoRA") else ())):
        for length in _shorter(load):
            changes = [] if method == load.method else [f"method {method}"]
            changes += [_least_batch(load), f"max_seq_length {length}"]
            yield " and ".join(changes), replace(load, method=method, batch_size=load.least_batch, length=length)
    if load.sampled_completions > load.group_size:
        fewer = replace(load, batch_size=load.least_batch, sampled_completions=load.group_size)
        yield _least_batch(fewer), fewer
        yield from _combined_changes(fewer)


def _least_batch(load: TrainingLoad) -> str:
    """Return the fields of a request with the smallest batches.

    GRPO's completions of a train_step stay as many as the load has.
    """
    words = f"batch_size {load.least_batch}"
    if load.sampled_completions == 0:
        return words
    return f"{words} and gradient_accumulation_steps {load.sampled_completions // load.least_batch}"


def _shorter(load: TrainingLoad) -> Iterator[int]:
    """Yield shorter lengths of rows, in tokens.

    They leave room for a prompt and an answer.
    """
    length = load.length // 2
    while length >= max(256, 2 * load.completion_length):
        yield length
        length //= 2
