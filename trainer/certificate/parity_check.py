"""The parity certificate: an export is loaded again, from its files and in its own runtime, and compared with what was
trained. Beyond its format's limits it is no export. No torch here: a process of its own computes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from gemtune.jobs.record import Parity
from gemtune.request.exports import GgufExport, Limits
from gemtune.request.spec import Spec
from trainer.certificate.held_out_rows import ComparisonRows
from trainer.export.trained_weights import TrainedWeights
from trainer.process import child

NAME, PAGE = "certificate.json", "certificate.md"


# First choices that differ and prove nothing: of some tens of positions, one or two lie between equals.
NEAR_TIES = 2


def issue(
    spec: Spec, trained: TrainedWeights, questions: ComparisonRows, folder: Path, work: Path, tools: Path,
    *, note: str = "", check_stop: Callable[[], None],
) -> Parity:  # fmt: skip
    """Compare the export in `folder`, write the certificate there, and return its figures. note: what the page says of
    how it was made.

    Raises StepError `export_differs` with what was seen; MemoryError and OSError for what the machine lacks.
    """
    format, quantization = spec.export_config.format, spec.quantization
    limits = spec.export.limits
    seen = _seen(spec, trained, questions, folder, work, tools, check_stop)
    if "cannot_load" in seen:
        raise _differs(f"it cannot be loaded: {seen['cannot_load']}")
    parity = parity_of(seen, questions.source)
    page = {
        "format": format, "quantization": quantization, "runtime": seen["runtime"],
        "figures": parity.model_dump(), "limits": asdict(limits),
        "prompts_that_differ": seen["prompts_that_differ"], "answers": seen["answers"], "note": note,
    }  # fmt: skip
    problems = problems_of(parity, limits, seen["prompts_that_differ"])
    if problems:
        raise _differs("; ".join(problems))
    (folder / NAME).write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n")
    (folder / PAGE).write_text(_markdown(page))
    return parity


def _seen(
    spec: Spec, trained: TrainedWeights, questions: ComparisonRows, folder: Path, work: Path, tools: Path,
    check_stop: Callable[[], None],
) -> dict[str, Any]:  # fmt: skip
    case, result = work / "case.json", work / "seen.json"
    what = {
        "base": str(trained.base), "adapter": None if trained.adapter is None else str(trained.adapter),
        "format": spec.export_config.format, "folder": str(folder), "tools": str(tools),
        "gguf": spec.export.file_name if isinstance(spec.export, GgufExport) else None,
    }  # fmt: skip
    case.write_text(json.dumps(what | questions.to_json()))
    ended = child.run(["-m", "trainer.certificate.comparison_process", str(case), str(result)], check_stop)
    if ended.code == 0:
        found: dict[str, Any] = json.loads(result.read_text())
        return found
    ended.check_machine()
    if ended.code in child.CRASHES:
        return {"cannot_load": f"the process that loaded it ended with signal {-ended.code}"}
    raise RuntimeError(f"the comparison ended with {ended.code}: {ended.last_words}")


def parity_of(seen: Mapping[str, Any], source: str) -> Parity:
    loss = seen["loss"]
    return Parity(
        source=source, rows=seen["rows"], positions=seen["positions"], prompts=seen["prompts"],
        prompts_identical=seen["prompts"] - len({str(each["expected"]) for each in seen["prompts_that_differ"]}),
        change_kept=None if seen["change_kept"] is None else _finite(seen["change_kept"]),
        mean_kl=_finite(seen["mean_kl"]), top1_agreement=seen["top1_agreement"],
        perplexity=_finite(_exp(loss["exported"])), perplexity_trained=_finite(_exp(loss["trained"])),
    )  # fmt: skip


def problems_of(parity: Parity, limits: Limits, differing: list[dict[str, Any]]) -> list[str]:
    found = []
    if differing:
        ways = sorted({each["way"] for each in differing})
        found.append(f"{len(differing)} prompts do not become the tokens that were trained with ({', '.join(ways)})")
    if not parity.mean_kl <= limits.kl:
        found.append(f"mean KL is {parity.mean_kl:.4g} nats a position, at most {limits.kl:g} is its format's loss")
    if parity.change_kept is not None and not parity.change_kept >= limits.change:
        found.append(
            f"it shows {parity.change_kept:.0%} of what training changed, at least {limits.change:.0%} must be"
        )
    if not (parity.top1_agreement - limits.top1) * parity.positions >= -NEAR_TIES:
        found.append(f"the first choice is the same at {parity.top1_agreement:.0%} of positions, not {limits.top1:.0%}")
    if not parity.perplexity <= limits.perplexity * parity.perplexity_trained:
        found.append(f"perplexity is {parity.perplexity:.4g}, trained {parity.perplexity_trained:.4g}")
    return found


def _differs(what: str) -> StepError:
    hint = "the training result is kept; export again, or in a format that loses less"
    return StepError("export_differs", f"the export does not behave as trained: {what}", hint=hint)


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def _finite(figure: float) -> float:
    """A broken model's figures are no numbers, and JSON knows none such: the largest that it can carry."""
    return figure if math.isfinite(figure) else 1e300


def _markdown(page: Mapping[str, Any]) -> str:
    figures, limits = page["figures"], page["limits"]
    lines = [
        "# Parity certificate", "",
        f"The export ({page['format']}, {page['quantization']}) was loaded from these files by {page['runtime']} in a "
        f"process of its own and compared with the trained model on {figures['rows']} {figures['source']}.", "",
        "| | found | limit of the format |", "|---|---|---|",
        f"| prompts that become the tokens trained with | {figures['prompts_identical']} of {figures['prompts']} "
        "| all |",
        f"| mean KL, nats a position ({figures['positions']} positions) | {figures['mean_kl']:.6f} | {limits['kl']} |",
        f"| same first choice | {figures['top1_agreement']:.2%} | {limits['top1']:.0%}, and {NEAR_TIES} near ties |",
        *([] if figures["change_kept"] is None else
          [f"| what training changed | {figures['change_kept']:.1%} | at least {limits['change']:.0%} |"]),
        f"| perplexity (trained {figures['perplexity_trained']:.4f}) | {figures['perplexity']:.4f} "
        f"| {limits['perplexity']} times |", "",
        f"Why these limits: {limits['reason']}.", "",
        "Positions are those that predict a token of an answer. KL is that of the trained model's next-token "
        "distribution from the export's, over the whole vocabulary. What training changed are "
        "log-probabilities less those of the base model; its share is the coefficient of a regression on it.", "",
        *([page["note"], ""] if page["note"] else []),
        "## Answers, side by side", "", "The likeliest token each time.", "",
    ]  # fmt: skip
    for answer in page["answers"]:
        lines += [f"**{_line(answer['prompt'])}**", "", f"- trained: {_line(answer['trained'])}",
                  f"- exported: {_line(answer['exported'])}", ""]  # fmt: skip
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())[:300].replace("*", "\\*").replace("<", "&lt;") or "(nothing)"
