"""A trained model and its export, both loaded from files, side by side."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never, cast

import torch

from gemtune.request.exports import Format
from trainer.base_model import folder_contents
from trainer.certificate.runtimes import Head, LlamaCpp, Runtime, Transformers
from trainer.export.usage import PROJECTOR
from trainer.gguf import projector

UNTRAINED = -100
# Answers side by side, and tokens of each: a look, not a measurement.
ANSWERS, ANSWER_TOKENS = 2, 16
# A training that changed log-probabilities by less, as a variance per position, has nothing that could be lost.
LEAST_CHANGE = 1e-8


@dataclass
class Expected:
    """What the trained model does with a row: hidden states of the positions that predict a trained token, which are a
    thousandth of their logits, and the tokens they predict. base: those of the model before training, where an adapter
    is all that was trained."""

    tokens: list[int]
    positions: list[int]
    targets: list[int]
    hidden: torch.Tensor
    base: torch.Tensor | None


@dataclass
class Sums:
    """Over positions: KL in nats, agreement of first choices, loss of both in nats. change: the square of what training
    changed in log-probabilities; kept: the product of that and of what the export changes. Both are variances under the
    trained model."""

    positions: int = 0
    change: float = 0.0
    kept: float = 0.0
    kl: float = 0.0
    agreeing: int = 0
    loss: dict[str, float] = field(default_factory=lambda: {"trained": 0.0, "exported": 0.0})

    def add(
        self, expected: torch.Tensor, found: torch.Tensor, targets: torch.Tensor, base: torch.Tensor | None
    ) -> None:
        """Logits (positions, vocabulary) of both, and of the base model. A GGUF file leaves out columns that no token
        has."""
        columns = min(expected.shape[1], found.shape[1])
        p, q = (torch.log_softmax(logits[:, :columns], dim=1) for logits in (expected, found))
        if base is not None:
            b = torch.log_softmax(base[:, :columns], dim=1)
            trained, exported = (_centred(each - b, p.exp()) for each in (p, q))
            self.change += float((p.exp() * trained * trained).sum(dtype=torch.float64))
            self.kept += float((p.exp() * trained * exported).sum(dtype=torch.float64))
        self.positions += len(p)
        self.agreeing += int((p.argmax(1) == q.argmax(1)).sum())
        rows = torch.arange(len(p))
        for name, chances in (("trained", p), ("exported", q)):
            self.loss[name] -= float(chances[rows, targets].double().sum())
        self.kl += float((p.exp() * (p - q)).sum(dtype=torch.float64))


def _centred(changes: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    """(positions, vocabulary) with a mean of 0 at every position, each column weighted by its chance."""
    return changes - (chances * changes).sum(dim=1, keepdim=True)


def compare(case: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a case (`comparison_process`), or `cannot_load`."""
    trained = Transformers(Path(case["base"]), None if case["adapter"] is None else Path(case["adapter"]))
    rows = [_expected(trained, row) for row in case["rows"]]
    asked = case["prompts"][:ANSWERS]
    answers = [{"prompt": prompt["messages"][-1]["content"], "trained": _answer(trained, prompt)} for prompt in asked]
    head = trained.head
    del trained
    gc.collect()  # modules know each other in circles; the head alone stays in memory beside the export
    try:
        exported = _load(case)
    except Exception as error:  # anything: the file may hold anything
        return {"cannot_load": f"{type(error).__name__}: {str(error)[:500]}"}
    sums = _sums(head, rows, exported)
    for prompt, answer in zip(asked, answers, strict=True):
        answer["exported"] = _answer(exported, prompt)
    return _figures(sums) | {
        "runtime": exported.name,
        "prompts": len(case["prompts"]),
        "prompts_that_differ": _differing(exported, case["prompts"]),
        "rows": len(rows),
        "answers": answers,
    }


def _load(case: Mapping[str, Any]) -> Runtime:
    """The export in the runtime of its format."""
    folder, format = Path(case["folder"]), cast(Format, case["format"])
    match format:
        case "gguf":
            if "vision_config" in folder_contents.config_of(Path(case["base"])):
                projector.check(folder / PROJECTOR, Path(case["base"]))
            return LlamaCpp(folder / case["gguf"], Path(case["adapter"] or case["base"]), Path(case["tools"]))
        case "adapter" if case["adapter"] is not None:
            return Transformers(Path(case["base"]), folder)
        case "merged" | "adapter":
            return Transformers(folder)
    assert_never(format)


def _answer(model: Runtime, prompt: Mapping[str, Any]) -> str:
    return model.text(model.answer(prompt["tokens"], ANSWER_TOKENS))


def _expected(trained: Transformers, row: Mapping[str, Any]) -> Expected:
    tokens, labels = row["input_ids"], row["labels"]
    if not labels:  # no answer was prepared: the trained model's own, which can be nothing but its end
        answer = trained.answer_and_end(tokens, ANSWER_TOKENS)
        tokens, labels = tokens + answer, [UNTRAINED] * len(tokens) + answer
    positions = [index - 1 for index, label in enumerate(labels) if index > 0 and label != UNTRAINED]
    targets = [labels[position + 1] for position in positions]
    return Expected(
        tokens, positions, targets, trained.hidden(tokens, positions), trained.base_hidden(tokens, positions)
    )


def _sums(head: Head, rows: Sequence[Expected], exported: Runtime) -> Sums:
    sums = Sums()
    for row in rows:
        done = 0
        for found in exported.logits(row.tokens, row.positions):
            block = slice(done, done + len(found))
            base = None if row.base is None else head(row.base[block])
            sums.add(head(row.hidden[block]), found, torch.tensor(row.targets[block]), base)
            done += len(found)
    return sums


def _figures(sums: Sums) -> dict[str, Any]:
    count = max(1, sums.positions)
    loss = {name: total / count for name, total in sums.loss.items()}
    return {
        "positions": sums.positions,
        "mean_kl": sums.kl / count,
        "top1_agreement": sums.agreeing / count,
        "loss": loss,
        "change_kept": sums.kept / sums.change if sums.change > LEAST_CHANGE * count else None,
    }


def _differing(exported: Runtime, prompts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Prompts that do not become the tokens that were trained with, by the way that was taken."""
    found = []
    for prompt in prompts:
        for way, tokens in exported.prompts(prompt["messages"]).items():
            if list(tokens) != prompt["tokens"]:
                found.append({"way": way, "expected": prompt["tokens"][:64], "found": list(tokens)[:64]})
    return found
