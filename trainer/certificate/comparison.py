"""Comparison of a trained model with its export, both loaded from files."""

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
# Number of sample answers, and tokens per answer. They are for people to look at; no limit depends on them.
ANSWERS, ANSWER_TOKENS = 2, 16
# Below this mean variance per position of what training changed in log-probabilities, there is nothing to lose.
MIN_CHANGE = 1e-8


@dataclass
class Expected:
    """One row as the trained model computes it.

    positions: those that predict a trained token. targets: the tokens at the next positions. hidden: last hidden states
    of the trained model at these positions, (positions, width) in float32; they take a thousandth of the memory of
    logits. base: the same of the model before training; None if all weights were trained.
    """

    tokens: list[int]
    positions: list[int]
    targets: list[int]
    hidden: torch.Tensor
    base: torch.Tensor | None


@dataclass
class Sums:
    """Sums over positions of what the certificate measures.

    kl: KL divergence KL(trained || exported), in nats. agreeing: positions with the same most likely token. loss:
    negative log-likelihood of the targets under both models, in nats. change: Var(t), where t are the log-probabilities
    of the trained model less those of the base model. kept_change: Cov(t, e), where e are those of the export less
    those of the base model. Both are over the vocabulary, weighted with the trained model's probabilities, so
    kept_change / change is the coefficient of the regression of e on t.
    """

    positions: int = 0
    change: float = 0.0
    kept_change: float = 0.0
    kl: float = 0.0
    agreeing: int = 0
    loss: dict[str, float] = field(default_factory=lambda: {"trained": 0.0, "exported": 0.0})

    def add(
        self, trained: torch.Tensor, exported: torch.Tensor, targets: torch.Tensor, base: torch.Tensor | None
    ) -> None:
        """Add a block of positions.

        trained, exported, base: logits of the models, (positions, vocabulary) in float32; base is None if all weights
        were trained. targets: (positions,). A GGUF file may have fewer columns, as it leaves out those without a token.
        """
        columns = min(trained.shape[1], exported.shape[1])
        p, q = (torch.log_softmax(logits[:, :columns], dim=1) for logits in (trained, exported))
        if base is not None:
            b = torch.log_softmax(base[:, :columns], dim=1)
            trained_change, exported_change = (_centered(each - b, p.exp()) for each in (p, q))
            self.change += float((p.exp() * trained_change * trained_change).sum(dtype=torch.float64))
            self.kept_change += float((p.exp() * trained_change * exported_change).sum(dtype=torch.float64))
        self.positions += len(p)
        self.agreeing += int((p.argmax(1) == q.argmax(1)).sum())
        rows = torch.arange(len(p))
        for name, log_probabilities in (("trained", p), ("exported", q)):
            self.loss[name] -= float(log_probabilities[rows, targets].double().sum())
        self.kl += float((p.exp() * (p - q)).sum(dtype=torch.float64))


def _centered(changes: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Subtract the mean of each position, weighted with the probabilities.

    Both are (positions, vocabulary).
    """
    return changes - (probabilities * changes).sum(dim=1, keepdim=True)


def compare(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a case, which `comparison_process` describes.

    If the export's runtime cannot load it, the result is only `cannot_load` with the error.
    """
    trained = Transformers(Path(case["base"]), None if case["adapter"] is None else Path(case["adapter"]))
    rows = [_expected(trained, row) for row in case["rows"]]
    prompts = case["prompts"][:ANSWERS]
    answers = [{"prompt": prompt["messages"][-1]["content"], "trained": _answer(trained, prompt)} for prompt in prompts]
    head = trained.head
    del trained
    gc.collect()  # modules refer to each other in cycles; only the head stays in memory while the export is loaded
    try:
        exported = _load(case)
    except Exception as error:  # a damaged export may raise anything
        return {"cannot_load": f"{type(error).__name__}: {str(error)[:500]}"}
    sums = _sums(head, rows, exported)
    for prompt, answer in zip(prompts, answers, strict=True):
        answer["exported"] = _answer(exported, prompt)
    return _metrics(sums) | {
        "runtime": exported.name,
        "prompts": len(case["prompts"]),
        "prompts_that_differ": _differing_prompts(exported, case["prompts"]),
        "rows": len(rows),
        "answers": answers,
    }


def _load(case: Mapping[str, Any]) -> Runtime:
    """Load the export in the runtime of its format, which may raise anything."""
    folder, export_format = Path(case["folder"]), cast(Format, case["format"])
    match export_format:
        case "gguf":
            if "vision_config" in folder_contents.config_of(Path(case["base"])):
                projector.check(folder / PROJECTOR, Path(case["base"]))
            return LlamaCpp(folder / case["gguf"], Path(case["adapter"] or case["base"]), Path(case["tools"]))
        case "adapter" if case["adapter"] is not None:
            return Transformers(Path(case["base"]), folder)
        case "merged" | "adapter":
            return Transformers(folder)
    assert_never(export_format)


def _answer(model: Runtime, prompt: Mapping[str, Any]) -> str:
    return model.text(model.answer(prompt["tokens"], ANSWER_TOKENS))


def _expected(trained: Transformers, row: Mapping[str, Any]) -> Expected:
    tokens, labels = row["input_ids"], row["labels"]
    if not labels:  # a prompt without an answer: take the trained model's own, which has at least the end token
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
        for logits in exported.logits(row.tokens, row.positions):
            block = slice(done, done + len(logits))
            base = None if row.base is None else head(row.base[block])
            sums.add(head(row.hidden[block]), logits, torch.tensor(row.targets[block]), base)
            done += len(logits)
    return sums


def _metrics(sums: Sums) -> dict[str, Any]:
    count = max(1, sums.positions)
    loss = {name: total / count for name, total in sums.loss.items()}
    return {
        "positions": sums.positions,
        "mean_kl": sums.kl / count,
        "top1_agreement": sums.agreeing / count,
        "loss": loss,
        "change_kept": sums.kept_change / sums.change if sums.change > MIN_CHANGE * count else None,
    }


def _differing_prompts(exported: Runtime, prompts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the prompts whose tokens are not those of training.

    `way` says how they were rendered: by the chat template or the Modelfile.
    """
    differing = []
    for prompt in prompts:
        for way, tokens in exported.prompts(prompt["messages"]).items():
            if list(tokens) != prompt["tokens"]:
                differing.append({"way": way, "expected": prompt["tokens"][:64], "found": list(tokens)[:64]})
    return differing
