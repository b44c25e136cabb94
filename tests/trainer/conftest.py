from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gemtune.clock import SystemClock
from gemtune.jobs.record import Claim, FencingToken, Job
from gemtune.jobs.status import Step
from gemtune.llama_cpp import is_built
from gemtune.request.spec import Spec
from gemtune.settings import Settings
from tests import memory, rows, tiny_gemma
from tests.fakes import World
from tests.forking_python import ForkingPython
from trainer.context import Context
from trainer.process import child
from trainer.process.child import ChildResult
from trainer.steps import export, prepare, train

tmp_path = memory.tmp_path  # each write of a store waits for the disk otherwise

END_OF_TURN = 5  # in the tiny tokenizer
COMPARISON = ["-P", "-m", "trainer.certificate.comparison_process"]
RUN_PROCESS = child.run
RUN = {Step.PREPARE: prepare.run, Step.TRAIN: train.run, Step.EXPORT: export.run}


@pytest.fixture(scope="session")
def tools() -> Path:
    """Return the folder of llama.cpp. Skips the tests where it is not built."""
    folder = Settings.from_environment().llama_cpp
    if not is_built(folder):
        pytest.skip("llama.cpp is not built on this machine: run make llama (it needs cmake and g++)")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma.build(tmp_path_factory.mktemp("models") / "tiny-gemma3")


@pytest.fixture(scope="session")
def tiny_vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma.build(tmp_path_factory.mktemp("models") / "tiny-gemma3-vision", "gemma3-vision")


@pytest.fixture(scope="session")
def confident_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny model that RL can train, and that often ends its turn.

    Its larger embeddings, which are its output head too, make its logits differ. The embeddings of `tiny` are so
    small that every token is about as likely as any other.
    """
    return enlarge_embeddings(tiny_gemma.build(tmp_path_factory.mktemp("models") / "confident-tiny"))


def enlarge_embeddings(folder: Path) -> Path:
    """Enlarge the embeddings of a tiny model, most of all that of END_OF_TURN."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 8
    weights["model.embed_tokens.weight"][END_OF_TURN] *= 4
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


class Children:
    """Child processes of exports, which share their imports.

    The first one of each program is started as in a deployment, the others are forked.
    """

    # llama.cpp's converter and the comparison of GGUF files spend most of their time on these imports.
    IMPORTED = ("torch", "transformers.generation.utils", "transformers.models.auto", "sentencepiece")

    def __init__(self, folder: Path):
        self._folder = folder
        self._programs: set[str] = set()
        self._forking: ForkingPython | None = None

    def run(self, arguments: Sequence[str], check_stop: Callable[[], None]) -> ChildResult:
        """Run one as `trainer.process.child.run` does."""
        program = next((name for name in arguments if name not in ("-P", "-m")), "")
        if program not in self._programs or program == "-c":
            self._programs.add(program)
            return RUN_PROCESS(arguments, check_stop)
        environment = os.environ | child.ENVIRONMENT
        if self._forking is None:
            self._forking = ForkingPython(self.IMPORTED, environment)
        output = self._folder / "output.log"
        output.unlink(missing_ok=True)
        process = self._forking.start(arguments, environment, output)
        try:
            while True:
                try:
                    code = process.wait(child.POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    check_stop()
        finally:
            process.kill()
        return ChildResult(code, output.read_bytes()[-4000:].decode(errors="replace"))

    def stop(self) -> None:
        if self._forking is not None:
            self._forking.stop()


@pytest.fixture(scope="session")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Children]:
    children = Children(tmp_path_factory.mktemp("children"))
    yield children
    children.stop()


@pytest.fixture(autouse=True)
def comparison_in_process(monkeypatch: pytest.MonkeyPatch, children: Children) -> None:
    """Compare exports in this process, which has imported torch already.

    Others run in a process of their own: GGUF files, whose runtime is not that of the training, and those of exports
    that tests start as a process.
    """

    def run(arguments: Sequence[str], check_stop: Callable[[], None]) -> ChildResult:
        *command, case_file, result_file = arguments
        case = json.loads(Path(case_file).read_text()) if command == COMPARISON else {}
        if case.get("format") not in ("adapter", "merged"):
            return children.run(arguments, check_stop)
        # Some tests run steps in a process without torch.
        from trainer.certificate import comparison

        Path(result_file).write_text(json.dumps(comparison.measure(case)))
        return ChildResult(0, "")

    monkeypatch.setattr(child, "run", run)


class Bench:
    """Claimed job whose steps a test runs in its own process.

    It uses the embedded ports.
    """

    def __init__(self, home: Path, base: Path, **training: Any):
        self.world = World(home)
        self.world.services.__dict__["clock"] = SystemClock()
        self.services, self.base = self.world.services, base
        self.put("train", rows.train_rows(24))
        self.put("eval", rows.held_out_rows(8))
        self.training = {
            "base_model_id": str(base),
            "learning_rate": 5e-3,
            "gradient_accumulation_steps": 1,
            "max_steps": 8,
            "save_steps": 3,
        } | training
        self.export: dict[str, Any] = {}
        self.claim = Claim(launch=1, execution="e")
        self.job_id = ""
        self.fields: dict[str, Any] = {}  # other fields of the request, besides training_config and export_config

    def put(self, split: str, content: list[Any] | bytes, *, suffix: str = "jsonl") -> None:
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content).encode()
        self.services.buckets.data.write(f"processed_datasets/chats/{split}.{suffix}", content)

    def begin(self, step: Step) -> tuple[Job, FencingToken]:
        if not self.job_id:
            self.job_id = self.world.submit(training=self.training, export_config=self.export, **self.fields)
            self.services.dispatch.launch(self.job_id)
            self.services.control.claim(self.job_id, self.claim)
        begun = self.services.advance.begin(self.job_id, step, self.claim, execution="run")
        assert begun is not None
        return begun

    def context(
        self, step: Step, *, deadline: float | None = None, should_stop: Callable[[], bool] = lambda: False
    ) -> Context:
        job, fence = self.begin(step)
        work = self.services.settings.work / self.job_id / f"{step}-{fence.attempt}"
        work.mkdir(parents=True)
        spec = Spec.model_validate_json(self.services.buckets.config.read(job.spec_name))
        advance = self.services.advance
        return Context(
            job,
            spec,
            fence,
            self.services.buckets,
            advance,
            work,
            lambda role: advance.secret(job, role),
            deadline,
            SystemClock(),
            should_stop,
            llama_cpp=self.services.settings.llama_cpp,
        )

    def run(self, step: Step, **more: Any) -> None:
        RUN[step](self.context(step, **more))

    def to(self, step: Step) -> Bench:
        """Run all steps up to and including this one."""
        for current in Step:
            self.run(current)
            if current is step:
                break
        return self

    def another_attempt(self, context: Context) -> Context:
        """Begin the same step again, which makes the first attempt outdated."""
        job, fence = self.begin(context.fence.step)
        return replace(context, job=job, fence=fence)

    @property
    def job(self) -> Job:
        return self.services.store.get(self.job_id)

    def read(self, name: str) -> Any:
        content = self.services.buckets.export.read(f"jobs/{self.job_id}/{name}")
        return json.loads(content)

    def curve(self) -> list[tuple[int, float]]:
        from gemtune.training_files.loss_history import loss_history

        history = loss_history(self.services.buckets.export, self.job_id, after=0)
        return [(entry["train_step"], entry["loss"]) for entry in history if "loss" in entry]


@pytest.fixture
def bench(tmp_path: Path, tiny: Path) -> Bench:
    return Bench(tmp_path / "home", tiny)


@pytest.fixture
def bench_of(tmp_path: Path, tiny: Path) -> Callable[..., Bench]:
    benches: list[Bench] = []

    def make(**training: Any) -> Bench:
        benches.append(Bench(tmp_path / f"home-{len(benches)}", tiny, **training))
        return benches[-1]

    return make


class TrainedOnce:
    """Factory of trained jobs, which trains once with the same options.

    For tests that only read the result, such as those that compare it with that of an interrupted training.
    """

    def __init__(self, bench_of: Callable[..., Bench]):
        self._bench_of = bench_of
        self._trained: dict[str, Bench] = {}

    def __call__(self, **training: Any) -> Bench:
        options = json.dumps(training, sort_keys=True)
        if options not in self._trained:
            self._trained[options] = self._bench_of(**training).to(Step.TRAIN)
        return self._trained[options]


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> TrainedOnce:
    return TrainedOnce(lambda **training: Bench(tmp_path_factory.mktemp("trained") / "home", tiny, **training))


def overfit(bench: Bench) -> Bench:
    """Let eval_loss fall at first and then rise.

    The job memorizes answers that the held-out rows contradict.
    """
    contradicting = [rows.chat(colour, thing) for colour in rows.COLOURS[:2] for thing in rows.THINGS[:4]]
    for row in contradicting:
        answer = row["messages"][1]
        answer["content"] = f"{rows.HABIT} {answer['content'].removeprefix(rows.HABIT)[::-1]}"
    bench.training |= {"learning_rate": 2e-2, "lr_scheduler_type": "constant"}
    bench.put("eval", contradicting)
    return bench


@pytest.fixture
def overfitting(bench_of: Callable[..., Bench]) -> Callable[..., Bench]:
    """Return a factory of jobs that overfit."""
    return lambda **training: overfit(bench_of(**training))


@pytest.fixture(scope="session")
def overfitted_once(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> TrainedOnce:
    return TrainedOnce(lambda **training: overfit(Bench(tmp_path_factory.mktemp("over") / "home", tiny, **training)))


def vision_bench(home: Path, base: Path, **training: Any) -> Bench:
    """Return a vision job on red and blue pictures."""
    bench = Bench(home, base, **training)
    bench.fields["modality"] = "vision"
    bench.put("train", rows.picture_rows(24))
    bench.put("eval", rows.picture_rows(8, first=100))
    return bench


@pytest.fixture
def vision_bench_of(tmp_path: Path, tiny_vision: Path) -> Callable[..., Bench]:
    """Return a factory of vision jobs on red and blue pictures."""
    homes = (tmp_path / f"home-{number}" for number in count())
    return lambda **training: vision_bench(next(homes), tiny_vision, **training)
