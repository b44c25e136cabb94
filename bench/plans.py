"""Plans of jobs, compared with what the jobs then took.

`python -m bench.plans` starts a service of its own and runs small real jobs on it: of each kind first some from which
the planner learns the speed, then some of other sizes whose plans are judged, one of them again at the end. The jobs of
all kinds alternate, so that a slow minute of the machine does not fall on one kind alone. Each row is a ratio of two
durations of the same job; how far the repeated jobs differ says how much of the error is the machine's. `--dry-run`
only plans the jobs. `--finished` reads the finished jobs of a deployment instead, as the settings name it
(GEMTUNE_HOME on a workstation).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gemtune.bootstrap import services
from gemtune.handlers.answers import JobStatus
from gemtune.jobs.parts.plan import Plan
from gemtune.jobs.status import STEPS, Status
from gemtune.machines.cost import LIST_PRICES

# A plan is good if the steps took at most this share longer or shorter.
TOLERANCE = 0.2
# Finished jobs of a kind from which on a plan counts.
JOBS = 3
# Rows to train on and rows held out of each job, in the order of submission, and the number of epochs. The first JOBS
# of each kind teach the planner; the last one repeats the one after them.
SIZES: Sequence[tuple[int, int, int]] = (
    (80, 16, 2),
    (320, 32, 2),
    (160, 24, 3),
    (240, 32, 2),
    (80, 16, 1),
    (400, 48, 3),
    (240, 32, 2),
)
# Length of rows, in turns of a conversation, by max_seq_length.
TURNS: Mapping[int, int] = {128: 3, 256: 7}


@dataclass(frozen=True, slots=True)
class Kind:
    """Jobs that the planner counts as one kind.

    training: fields of training_config.
    """

    name: str
    length: int
    training: Mapping[str, Any]


KINDS = (
    Kind("Full, 128", 128, {"method": "Full"}),
    Kind("LoRA, 256", 256, {"method": "LoRA", "batch_size": 4}),
    Kind("DPO, 128", 128, {"method": "RL", "rl_config": {"algorithm": "dpo"}}),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A completed job beside its plan.

    guess: plan of the request, before the rows were counted. repeats: whether the same job was run before.
    """

    kind: str
    guess: Plan | None
    status: JobStatus
    repeats: bool = False

    @property
    def plan(self) -> Plan:
        """Return the plan after the rows were counted."""
        assert self.status.plan is not None
        return self.status.plan

    @property
    def jobs(self) -> int:
        """Return the finished jobs behind the plan."""
        return min((step.jobs for step in self.plan.steps.values()), default=0)

    @property
    def is_counted(self) -> bool:
        """Return whether the plan had enough jobs behind it to be judged."""
        return self.jobs >= JOBS and self.status.plan_error is not None

    @property
    def is_good(self) -> bool:
        """Return whether the plan was right within the tolerance."""
        return self.status.plan_error is not None and abs(self.status.plan_error) <= TOLERANCE

    @property
    def minutes(self) -> float:
        """Return how long the steps took."""
        return sum(step.seconds for step in self.status.steps.values()) / 60


class RunningJob(Protocol):
    """Job of a service; `Client` of gemtune returns them."""

    def wait(self) -> object: ...

    def status(self) -> JobStatus: ...


class Jobs(Protocol):
    """Service that plans and runs jobs."""

    def plan(self, request: Mapping[str, Any]) -> Plan: ...

    def train(self, request: Mapping[str, Any]) -> RunningJob: ...


def main() -> None:
    """Print the table and how many plans were good."""
    parser = argparse.ArgumentParser(prog="python -m bench.plans", description=__doc__)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="plan the jobs and run none")
    only.add_argument("--finished", action="store_true", help="read the finished jobs of a deployment")
    options = parser.parse_args()
    if options.finished:
        print_table(_finished())
        return
    from gemtune import Client
    from tests import tiny_gemma
    from tests.e2e.service import Service

    # So that the service does not outlive this program.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as folder:
        base = tiny_gemma.build(Path(folder) / "tiny")
        home = Path(folder) / "home"
        home.mkdir()
        with Service(home) as service:
            requests = [*write_requests(service.home / "data" / "processed_datasets", base)]
            client: Any = Client(service.url)
            if options.dry_run:
                print_plans(client, requests)
                return
            print(f"load before: {os.getloadavg()[0]:.2f}")
            print_table(run(client, requests))
            print(f"load after: {os.getloadavg()[0]:.2f}")


def write_requests(datasets: Path, base: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write the datasets and yield the names of kinds and the requests.

    datasets: the service's folder of datasets. base: folder of the base model.
    """
    for rows, held_out, epochs in SIZES:
        for kind in KINDS:
            dataset = f"{'pairs' if 'rl_config' in kind.training else 'chats'}_{kind.length}_{rows}"
            counts = {"train": rows, "eval": held_out}
            write_dataset(datasets / dataset, counts, TURNS[kind.length], pairs=dataset.startswith("pairs"))
            config = {"base_model_id": str(base), "batch_size": 8, "gradient_accumulation_steps": 1}
            config |= {"max_seq_length": kind.length, "epochs": epochs, **kind.training}
            yield kind.name, {"processed_dataset_id": dataset, "training_config": config}


def write_dataset(folder: Path, counts: Mapping[str, int], turns: int, *, pairs: bool) -> None:
    """Write a dataset of different conversations, unless it is there.

    counts: number of rows by split. pairs: whether it has pairs of answers, for DPO.
    """
    if folder.exists():
        return
    folder.mkdir(parents=True)
    for first, (split, count) in enumerate(counts.items()):
        lines = (json.dumps(_row(10_000 * first + number, turns, pairs=pairs)) for number in range(count))
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _row(number: int, turns: int, *, pairs: bool) -> dict[str, Any]:
    """Return a conversation whose colours and things follow from its number."""
    from tests.rows import COLOURS, THINGS, chat

    messages: list[dict[str, Any]] = []
    for turn in range(turns):
        index = number * 7 + turn * 11
        messages += chat(COLOURS[index % len(COLOURS)], THINGS[index // len(COLOURS) % len(THINGS)])["messages"]
    if not pairs:
        return {"messages": messages}
    *before, answer = messages
    rejected = {"role": "assistant", "content": f"I do not know number {number}."}
    return {"prompt": before, "chosen": [answer], "rejected": [rejected]}


def run(jobs: Jobs, requests: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Outcome]:
    """Plan and run the jobs one after the other.

    Raises RuntimeError if one fails.
    """
    earlier: list[Mapping[str, Any]] = []
    for kind, request in requests:
        guess = jobs.plan(request)
        job = jobs.train(request)
        job.wait()
        status = job.status()
        if status.status != Status.COMPLETED or status.plan is None:
            raise RuntimeError(f"job {status.job_id} of kind {kind} is {status.status}: {status.error}")
        yield Outcome(kind, guess, status, repeats=request in earlier)
        earlier.append(request)


def print_plans(jobs: Jobs, requests: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Print the plan of each request."""
    print("| kind | rows | tokens, planned | minutes, planned |\n|---|---|---|---|")
    for kind, request in requests:
        plan = jobs.plan(request)
        rows = request["processed_dataset_id"].rpartition("_")[2]
        minutes = "unknown" if plan.minutes is None else f"{plan.minutes.expected:.2f}"
        tokens = "unknown" if plan.tokens is None else f"{plan.tokens.expected:,.0f}"
        print(f"| {kind} | {rows} | {tokens} | {minutes} |")


def print_table(outcomes: Iterable[Outcome]) -> None:
    """Print each job's plan beside what it took, and how many plans were good."""
    columns = ("kind", "jobs behind", "tokens", "guessed", "minutes", "planned", "took / planned", *STEPS)
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    listed = []
    for outcome in outcomes:
        listed.append(outcome)
        print(f"| {' | '.join(_cells(outcome))} |", flush=True)
    counted = [outcome for outcome in listed if outcome.is_counted]
    good = sum(outcome.is_good for outcome in counted)
    print(f"\n{good} of {len(counted)} plans after {JOBS} jobs of the kind were right within {TOLERANCE:.0%}")
    spreads = [*_spreads(listed)]
    if spreads:
        print(
            f"the same job, run again, took {min(spreads):.2f} to {max(spreads):.2f} times as long "
            f"(median {statistics.median(spreads):.2f})"
        )


def _cells(outcome: Outcome) -> Iterator[str]:
    """Yield the cells of a job's row."""
    plan, guess = outcome.plan, outcome.guess
    yield outcome.kind
    yield str(outcome.jobs)
    yield "unknown" if plan.tokens is None else f"{plan.tokens.expected:,.0f}"
    guessed = None if guess is None else guess.tokens
    yield "-" if guessed is None else f"{guessed.least:,.0f} to {guessed.most:,.0f}"
    yield f"{outcome.minutes:.2f}"
    yield "unknown" if plan.minutes is None else f"{plan.minutes.expected:.2f}"
    error = outcome.status.plan_error
    yield "unknown" if error is None else f"{1 + error:.2f}"
    for step in STEPS:
        planned, took = plan.steps.get(step), outcome.status.steps[step].seconds
        yield f"{took:.1f} s" if planned is None else f"{took:.1f} / {planned.seconds:.1f} s"


def _spreads(outcomes: Sequence[Outcome]) -> Iterator[float]:
    """Yield how much longer each repeated job took than the first time."""
    for number, outcome in enumerate(outcomes):
        if outcome.repeats:
            same = (other for other in outcomes[:number] if _work_of(other) == _work_of(outcome))
            yield outcome.minutes / next(same).minutes


def _work_of(outcome: Outcome) -> tuple[str, str, object, object]:
    """Return what makes two jobs the same work."""
    plan = outcome.plan
    return outcome.kind, outcome.status.processed_dataset_id, plan.tokens, plan.train_steps


def _finished() -> Iterator[Outcome]:
    """Yield the completed jobs of this deployment that have a plan."""
    store, token = services().store, None
    while True:
        page = store.page(status=Status.COMPLETED, modality=None, limit=200, page_token=token)
        for summary in page.jobs:
            status = JobStatus.of(store.get(summary.job_id), LIST_PRICES)
            if status.plan is not None and status.plan_error is not None:
                yield Outcome(summary.job_id, None, status)
        token = page.next_page_token
        if token is None:
            return


if __name__ == "__main__":
    main()
