"""The machine types a training can have, and which one a job gets. Pure.

Limits are Cloud Run's: one GPU an instance, an L4 with at most 8 CPUs and 32 GiB, an RTX PRO 6000 with at least 20
CPUs and 80 GiB. Terraform makes the job `gemtune-train-<name>` of each machine that a deployment has, with these CPUs
and this memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gemtune.errors import NeedsLargerMachine
from gemtune.families.size import ModelSize
from gemtune.machines.memory import MemoryNeed, TrainingLoad, memory_for_training


@dataclass(frozen=True, slots=True)
class Machine:
    """gpu: the accelerator's name on Cloud Run. gpu_gib: what of its memory a process can have. image: the image whose
    torch its driver runs, one of those that trainer/Dockerfile makes."""

    cpus: int
    memory_gib: int
    gpu: str | None = None
    gpu_gib: float = 0.0
    image: str = "cpu"

    def has(self, need: MemoryNeed) -> bool:
        if self.gpu is None:
            return need.host_without_gpu <= self.memory_gib
        return need.gpu <= self.gpu_gib and need.host_with_gpu <= self.memory_gib


# The workstation that the embedded backend runs on; nobody has to choose there, and its memory is the user's affair.
LOCAL = "local"

MACHINES: Mapping[str, Machine] = {
    "cpu": Machine(cpus=8, memory_gib=32),
    "l4": Machine(cpus=8, memory_gib=32, gpu="nvidia-l4", gpu_gib=22.0, image="cu126"),
    "rtx-pro-6000": Machine(cpus=20, memory_gib=80, gpu="nvidia-rtx-pro-6000", gpu_gib=94.0, image="cu130"),
}


# The machines of the other steps. Terraform gives their jobs these CPUs and this memory.
CPU_STEPS: Mapping[str, Machine] = {
    "prepare": Machine(cpus=4, memory_gib=16),
    "export": Machine(cpus=8, memory_gib=32),
}


# Training machines with more memory than exports have; a deployment that has one gets `gemtune-export-<name>` too.
WITH_MORE_MEMORY = tuple(
    name for name, machine in MACHINES.items() if machine.memory_gib > CPU_STEPS["export"].memory_gib
)


def choose_machine(here: Sequence[str], asked: str | None, size: ModelSize | None, load: TrainingLoad) -> str | None:
    """The machine of a job: the one asked for, or the first of those here that it fits on. None while the model's size
    is not known and nothing is asked for: `prepare`, which has the weights, decides then.

    Raises NeedsLargerMachine, with what would fit.
    """
    candidates = here if asked is None else (asked,)
    if LOCAL in candidates:
        return LOCAL
    if size is None:
        return asked
    need = memory_for_training(size, load)
    fitting = next((name for name in candidates if MACHINES[name].has(need)), None)
    if fitting is None:
        raise NeedsLargerMachine(_lacking(candidates, need), hint=_advice(here, asked, size, load))
    return fitting


def choose_export_machine(here: Sequence[str], needed_gib: float) -> str | None:
    """Whose main memory an export needs: None for the CPU machine that exports have; else a training machine of this
    deployment, which has more of it. Raises NeedsLargerMachine."""
    usual = CPU_STEPS["export"].memory_gib
    if LOCAL in here or needed_gib <= usual:
        return None
    large = [name for name in WITH_MORE_MEMORY if needed_gib <= MACHINES[name].memory_gib]
    found = next((name for name in here if name in large), None)
    if found is None:
        message = f"this export needs {needed_gib:.0f} GiB of main memory; the machine of exports has {usual}"
        elsewhere = f"; or deploy machine {large[0]}" if large else ""
        raise NeedsLargerMachine(message, hint=f"use format adapter, or a smaller base model{elsewhere}")
    return found


def _lacking(candidates: Sequence[str], need: MemoryNeed) -> str:
    largest = candidates[-1]
    machine = MACHINES[largest]
    if machine.gpu is None:
        return f"it needs {need.host_without_gpu:.0f} GiB of memory; machine {largest} has {machine.memory_gib}"
    return (
        f"it needs {need.gpu:.0f} GiB of GPU memory and {need.host_with_gpu:.0f} GiB of main memory; "
        f"machine {largest} has {machine.gpu_gib:.0f} and {machine.memory_gib}"
    )


def _advice(here: Sequence[str], asked: str | None, size: ModelSize, load: TrainingLoad) -> str:
    """What would fit, the least change first."""
    fits = [name for name in here if name != asked and MACHINES[name].has(memory_for_training(size, load))]
    changes = [f"machine {name}" for name in fits[:1]]
    candidates = here if asked is None else (asked,)
    for words, smaller in _smaller(load):
        if any(MACHINES[name].has(memory_for_training(size, smaller)) for name in candidates):
            changes.append(words)
    elsewhere = [name for name in MACHINES if name not in here and MACHINES[name].has(memory_for_training(size, load))]
    advice = f"this would fit: {', or '.join(changes)}" if changes else "use a smaller base model"
    return f"{advice}; or deploy machine {elsewhere[0]}" if elsewhere else advice


def _smaller(load: TrainingLoad) -> Iterator[tuple[str, TrainingLoad]]:
    """Changes of a request that need less memory, one of each kind for the largest value that is tried first."""
    if load.batch_size > 1:
        yield "batch_size 1", replace(load, batch_size=1)
    length = load.length // 2
    if length >= 256:
        yield f"max_seq_length {length}", replace(load, length=length)
        yield f"batch_size 1 and max_seq_length {length}", replace(load, batch_size=1, length=length)
    if load.method == "Full":
        yield "method LoRA", replace(load, method="LoRA")
    if load.method in ("Full", "LoRA"):
        yield "method QLoRA", replace(load, method="QLoRA")
        yield "method QLoRA and batch_size 1", replace(load, method="QLoRA", batch_size=1)
