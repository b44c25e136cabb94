"""Page of memory and machines, by the functions that decide about jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from docs.generate.text.markdown import Page, code
from gemtune.families import FAMILIES
from gemtune.families.size import ModelSize
from gemtune.machines.choice import CPU_STEPS, MACHINES
from gemtune.machines.cost import usd_per_second
from gemtune.machines.export_memory import memory_for_export
from gemtune.machines.memory import MemoryNeed, TrainingLoad, memory_for_training
from gemtune.machines.throughput import roofline
from gemtune.methods import Method
from gemtune.request.exports import EXPORTS
from gemtune.request.placement import load_of
from gemtune.request.training_config import TrainingConfig

# Rows of the table: a method, and what else of the request is not at its default.
METHODS: Mapping[str, dict[str, object]] = {
    "LoRA": {"method": "LoRA"},
    "QLoRA": {"method": "QLoRA"},
    "QLoRA, `batch_size` 1": {"method": "QLoRA", "batch_size": 1},
    "Full": {"method": "Full"},
    "DPO": {"method": "RL", "rl_config": {"algorithm": "dpo"}},
    "KTO": {"method": "RL", "rl_config": {"algorithm": "kto"}},
    "GRPO": {"method": "RL", "rl_config": {"algorithm": "grpo"}},
}
ORDER = ("cpu", "l4", "rtx-pro-6000")
GEMMA = "google/gemma-3-270m-it"


def page() -> Page:
    page = Page("Sizing", "How much memory each model needs with each method, and the machine that it gets.")
    page.heading("Machines")
    page.table(
        ("machine", "CPUs", "memory, GiB", "GPU", "GPU memory, GiB", "USD per hour"),
        [
            (
                code(name),
                str(each.cpus),
                str(each.memory_gib),
                each.gpu or "",
                f"{each.gpu_gib:g}" if each.gpu else "",
                _price(usd_per_second(each)),
            )
            for name, each in {**MACHINES, **{f"step {step}": machine for step, machine in CPU_STEPS.items()}}.items()
        ],
    )
    page.paragraph(
        "A deployment has those that `GEMTUNE_MACHINES` lists, and a job gets the first that it fits on. Prices are "
        "list prices of `functions/gemtune/machines/prices.json` in us-central1; in other regions those of GPUs are "
        "not known. On a workstation (`local`) nothing is refused for its size."
    )
    page.heading("Training")
    page.paragraph(
        "In GiB, by the estimate that the service uses, for text in rows of `max_seq_length` 2048 and, unless noted "
        "otherwise, the defaults of a request (`batch_size` 4, `lora_rank` 16). *GPU* is memory of the GPU, *main* the "
        "main memory of the same machine, *CPU* the main memory of a machine without a GPU. *main* and *CPU* include "
        "checkpoints, which are in memory on Cloud Run and on disk on a workstation; weights are read from mounts. "
        "Shorter rows need less: `prepare` decides by the longest row of the dataset. Models of the same size share a "
        "row."
    )
    page.paragraph(
        "Time and cost are those of a million tokens on each machine that the training fits on, without loading the "
        "model and evaluating. They are the estimate from the hardware's peak that plans begin with, and can be wrong "
        "by a factor of three: no GPU was timed. The plans of a deployment use its own finished jobs instead. GRPO has "
        "none, since sampling the completions takes most of its time."
    )
    for method, fields in METHODS.items():
        page.heading(method, 3)
        load = _load(fields)
        rows = [(name, size, memory_for_training(size, load)) for name, size in sizes()]
        timed = () if load.sampled_completions else ORDER
        page.table(
            ("model", "GPU", "main", "CPU", "smallest machine", *(f"{name}, per million tokens" for name in timed)),
            [
                (code(name), *_memory(need), _smallest(need), *(_speed(each, size, load, need) for each in timed))
                for name, size, need in rows
            ],
        )
    page.heading("Export")
    page.paragraph(
        "In GiB of main memory, by export format and by the method of the training; QLoRA and RL need as much as LoRA. "
        f"The machine of exports has {CPU_STEPS['export'].memory_gib}; what needs more runs on a training machine of "
        "the deployment that has it."
    )
    page.table(
        ("model", *(f"{name}, {method}" for name in EXPORTS for method in ("LoRA", "Full"))),
        [(code(name), *_exports(size)) for name, size in sizes()],
    )
    return page


def sizes() -> Iterator[tuple[str, ModelSize]]:
    """Yield each published size once, under the first name that it has."""
    yielded: list[ModelSize] = []
    for family in FAMILIES:
        for name, size in family.sizes.items():
            if size not in yielded:
                yielded.append(size)
                yield name, size


def _load(fields: dict[str, object]) -> TrainingLoad:
    return load_of(TrainingConfig.model_validate({"base_model_id": GEMMA} | fields), "text")


def _memory(need: MemoryNeed) -> tuple[str, str, str]:
    return f"{need.gpu:.1f}", f"{need.host_with_gpu:.1f}", f"{need.host_without_gpu:.1f}"


def _smallest(need: MemoryNeed) -> str:
    fitting = [name for name in ORDER if MACHINES[name].has(need)]
    with_gpu = [name for name in fitting if MACHINES[name].gpu is not None]
    if not fitting:
        return "none"
    return code(with_gpu[0]) + (" (or `cpu`, slowly)" if "cpu" in fitting else "") if with_gpu else code(fitting[0])


def _speed(machine: str, size: ModelSize, load: TrainingLoad, need: MemoryNeed) -> str:
    """Return minutes and cost of a million tokens; empty if it does not fit."""
    if not MACHINES[machine].has(need):
        return ""
    seconds = 1e6 * roofline(machine, size, load.method, cores=MACHINES[machine].cpus).per_token
    price = usd_per_second(MACHINES[machine])
    minutes = f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
    return f"{minutes}, cost unknown" if price is None else f"{minutes}, {seconds * price:.2f} USD"


def _exports(size: ModelSize) -> Iterator[str]:
    methods: tuple[Method, ...] = ("LoRA", "Full")
    for export_format in EXPORTS.values():
        for method in methods:
            yield f"{memory_for_export(size, method, _load({}).lora_rank, export_format.local_bytes):.0f}"


def _price(usd_per_second: float | None) -> str:
    return "not known" if usd_per_second is None else f"{usd_per_second * 3600:.2f}"
