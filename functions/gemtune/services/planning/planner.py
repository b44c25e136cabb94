"""Planner of jobs: by their request, or after their rows are counted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gemtune.families.size import ModelSize
from gemtune.jobs.parts.plan import Alternative, Plan, Workload
from gemtune.jobs.parts.results import JobWarning
from gemtune.jobs.record import Job
from gemtune.jobs.status import Step
from gemtune.machines import plan_warnings, planning, throughput
from gemtune.machines.choice import LOCAL, MACHINES, smaller_loads, smaller_model, smallest_changes
from gemtune.machines.cost import LIST_PRICES, Prices
from gemtune.machines.memory import MemoryNeed, TrainingLoad, memory_for_training
from gemtune.machines.planning import Amounts, Outlook, exactly
from gemtune.machines.throughput import Observation, Speed
from gemtune.ports import Buckets
from gemtune.request import placement
from gemtune.request.facts import Facts
from gemtune.request.placement import load_of
from gemtune.request.spec import Spec
from gemtune.request.training_config import DEFAULT_SEQ_LENGTH
from gemtune.services.planning import dataset_amounts
from gemtune.services.planning.measured_speeds import MeasuredSpeeds

# Seconds per token that prepare takes for reading and tokenizing. An estimate, until jobs are finished.
PREPARE_PER_TOKEN = 1e-5


@dataclass(frozen=True, slots=True)
class Workstation:
    """Hardware of a workstation."""

    cores: int
    memory_gib: float | None

    @classmethod
    def here(cls) -> Workstation:
        """Return the hardware of this machine; its memory may be unknown."""
        try:
            memory: float | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        except (ValueError, OSError):
            memory = None
        return cls(os.cpu_count() or 1, memory)


@dataclass(frozen=True, slots=True)
class Planner:
    """Service that plans jobs, and learns from finished ones.

    machines: names of the deployment's training machines. timeouts: seconds that an execution of each step may take.
    """

    speeds: MeasuredSpeeds
    buckets: Buckets
    machines: Sequence[str]
    timeouts: Mapping[Step, int]
    workstation: Workstation
    prices: Prices = LIST_PRICES

    def of_request(self, spec: Spec, facts: Facts) -> Plan:
        """Return the plan of a valid request, whose rows are not counted yet."""
        config = spec.training_config
        files = () if facts.dataset is None else facts.dataset.train_files
        sizes = dataset_amounts.measure(self.buckets.data, files, config)
        steps, tokens = dataset_amounts.amounts_of(config, sizes)
        amounts = Amounts(steps, tokens, None if sizes is None else sizes.tokens)
        load, machine = load_of(config, spec.modality), placement.machine(spec, facts)
        outlook = self._outlook(spec, facts.size, load, amounts, machine)
        outlook = replace(outlook, export_machine=placement.export_machine(spec, facts))
        return planning.make_plan(outlook, self._reason(spec, outlook.machine), self._alternatives(spec, outlook))

    def warnings(self, spec: Spec, facts: Facts) -> Sequence[JobWarning]:
        """Return warnings about the memory and caps of a valid request.

        Without caps the rows are not read.
        """
        caps = facts.deployment.caps.caps_of(spec)
        without_caps = all(cap is None for cap in caps.values())
        plan = self._plan_of_memory(spec, facts) if without_caps else self.of_request(spec, facts)
        return tuple(plan_warnings.warnings_of(plan, **caps))

    def _plan_of_memory(self, spec: Spec, facts: Facts) -> Plan:
        """Return the plan of a valid request without time and cost."""
        machine = placement.machine(spec, facts)
        load = load_of(spec.training_config, spec.modality)
        outlook = replace(self._outlook(spec, None, load, Amounts(None, None, None), machine), size=facts.size)
        return planning.make_plan(outlook, self._reason(spec, machine), self._alternatives(spec, outlook))

    def of_workload(
        self, spec: Spec, size: ModelSize | None, workload: Workload, machine: str | None, export_machine: str | None
    ) -> Plan:
        """Return the exact plan of a job whose rows are counted."""
        config = spec.training_config
        longest = workload.longest_row + dataset_amounts.completion_tokens(config)
        load = replace(load_of(config, spec.modality), length=longest)
        rows_tokens = workload.tokens if workload.rows_tokens is None else workload.rows_tokens
        steps, tokens = exactly(workload.train_steps), exactly(workload.tokens)
        amounts = Amounts(steps, tokens, exactly(rows_tokens), exact=True)
        outlook = replace(self._outlook(spec, size, load, amounts, machine), export_machine=export_machine)
        return planning.make_plan(outlook, self._reason(spec, outlook.machine), self._alternatives(spec, outlook))

    def record(self, job: Job, step: Step) -> None:
        """Add a finished step of a job to the table of speeds."""
        estimate = None if job.plan is None else job.plan.steps.get(step.value)
        if estimate is None or job.workload is None or job.steps[step].state != "done":
            return
        by_step = {Step.PREPARE: job.workload.rows_tokens, Step.TRAIN: _trained_tokens(job, job.workload)}
        tokens = by_step.get(step, 0)
        if tokens is None:  # an older version counted the rows
            return
        observation = Observation(tokens=tokens, seconds=job.steps[step].seconds)
        self.speeds.record(_place(step, job.machine), estimate.key, observation)

    def _outlook(
        self, spec: Spec, size: ModelSize | None, load: TrainingLoad, amounts: Amounts, machine: str | None
    ) -> Outlook:
        return Outlook(
            machine=machine,
            export_machine=None,
            size=size,
            load=load,
            amounts=amounts,
            speeds={} if machine is None or size is None else self._speeds(spec, size, machine),
            timeout=float(self.timeouts[Step.TRAIN]),
            memory_gib=self.workstation.memory_gib,
            prices=self.prices,
        )

    def _speeds(self, spec: Spec, size: ModelSize, machine: str) -> dict[Step, tuple[str, Speed]]:
        """Return each step's speed on a machine, with its key in the table."""
        config = spec.training_config
        length = config.max_seq_length or DEFAULT_SEQ_LENGTH
        model, bucket = config.base_model_id, 1 << (length - 1).bit_length()
        method = " ".join(_kind_of_training(spec))
        export = f"{spec.export_config.format} {spec.quantization}"
        priors = {
            Step.PREPARE: (f"prepare {model}", throughput.copying(machine, size, per_token=PREPARE_PER_TOKEN)),
            Step.TRAIN: (
                f"train {model} {method} {bucket}",
                throughput.roofline(machine, size, config.method, cores=self.workstation.cores),
            ),
            Step.EXPORT: (f"export {model} {export}", throughput.copying(machine, size)),
        }
        return {
            step: (key, self.speeds.speed(_place(step, machine), key, prior)) for step, (key, prior) in priors.items()
        }

    def _reason(self, spec: Spec, machine: str | None) -> str:
        """Say why the machine was chosen."""
        if machine is None:
            return "prepare chooses it, since the size of the model is not known yet"
        if machine == LOCAL:
            return "this machine is the only one"
        if spec.training_config.machine is not None:
            return "the request names it"
        return f"the first of {', '.join(self.machines)} with enough memory"

    def _alternatives(self, spec: Spec, outlook: Outlook) -> list[Alternative]:
        """Return other machines, and changes that need less memory."""
        if outlook.size is None or outlook.machine is None:
            return []
        others = [
            self._alternative(spec, outlook, f"machine {name}", machine=name)
            for name in self.machines
            if name not in (outlook.machine, LOCAL)
        ]
        if _fits(outlook.machine, outlook.size, outlook.load, self.workstation.memory_gib):
            return others
        smaller = [self._alternative(spec, outlook, words, load=load) for words, load in smaller_loads(outlook.load)]
        smallest = smallest_changes(each.change for each in smaller if each.fits)
        fitting = [each for each in smaller if each.change in smallest] or self._smaller_models(outlook)
        return others + fitting

    def _smaller_models(self, outlook: Outlook) -> list[Alternative]:
        """Return the largest of the common models that is smaller and fits."""
        machine, memory_gib = outlook.machine, self.workstation.memory_gib
        assert outlook.size is not None
        assert machine is not None
        name = smaller_model(outlook.size, outlook.load, lambda need: _has(machine, need, memory_gib))
        change = Alternative(change=f"base_model_id {name}", fits=True, minutes=None, usd=None)
        return [] if name is None else [change]

    def _alternative(
        self, spec: Spec, outlook: Outlook, change: str, *, machine: str | None = None, load: TrainingLoad | None = None
    ) -> Alternative:
        """Return what a change of the request would take."""
        assert outlook.size is not None
        assert outlook.machine is not None
        changed = replace(outlook, load=load or outlook.load, machine=machine or outlook.machine)
        if machine is not None:
            changed = replace(changed, speeds=self._speeds(spec, outlook.size, machine))
        plan = planning.make_plan(changed, change)
        return Alternative(
            change=change,
            fits=_fits(machine or outlook.machine, outlook.size, changed.load, self.workstation.memory_gib),
            # Another load has another speed, which is not measured.
            minutes=None if plan.minutes is None or machine is None else plan.minutes.expected,
            usd=None if plan.usd is None or machine is None else plan.usd.expected,
        )


def _kind_of_training(spec: Spec) -> Iterator[str]:
    """Yield what decides the speed besides machine, model and length."""
    config = spec.training_config
    yield config.method
    if config.rl_config is not None:
        yield config.rl_config.algorithm
    if spec.modality != "text":
        yield spec.modality
    if config.provider != "huggingface":
        yield config.provider


def _trained_tokens(job: Job, workload: Workload) -> float:
    """Return the tokens of a finished training, which may have stopped early."""
    done = 0 if job.progress is None else job.progress.train_step
    share = done / workload.train_steps if 0 < done < workload.train_steps else 1.0
    return workload.tokens * share


def _place(step: Step, machine: str | None) -> str:
    """Return the machine under which a step's speed is kept.

    On a workstation all steps run on one machine.
    """
    return (machine or LOCAL) if step is Step.TRAIN or machine == LOCAL else step.value


def _fits(machine: str, size: ModelSize, load: TrainingLoad, memory_gib: float | None) -> bool:
    """Return whether the memory of a machine suffices."""
    return _has(machine, memory_for_training(size, load), memory_gib)


def _has(machine: str, need: MemoryNeed, memory_gib: float | None) -> bool:
    """Return whether a machine has the memory. memory_gib: of a workstation."""
    if machine in MACHINES:
        return MACHINES[machine].has(need)
    return memory_gib is None or need.host_without_gpu <= memory_gib
