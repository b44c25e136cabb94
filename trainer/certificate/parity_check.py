"""Parity certificate: proof that an export behaves as the trained model.

The export is loaded again from its files, in the runtime of its format, and compared with the trained model. If it
differs by more than the limits of its format, the export fails. This module imports no torch; a separate process
computes.
"""

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

# Positions at which the first choices may differ in addition to the limit: among some tens of positions, one or two
# have two tokens of almost the same probability.
NEAR_TIES = 2


def issue(
    spec: Spec,
    trained: TrainedWeights,
    rows: ComparisonRows,
    folder: Path,
    work: Path,
    tools: Path,
    *,
    note: str = "",
    check_stop: Callable[[], None],
) -> Parity:
    """Compare the export in `folder`, and write the certificate there.

    work: a folder for temporary files. tools: the folder of llama.cpp. note: a sentence for the certificate on how the
    export was made. Raises StepError `export_differs` with the differences, and MemoryError or OSError if the machine
    lacks memory or disk.
    """
    limits = spec.export.limits
    result = _compare(spec, trained, rows, folder, work, tools, check_stop)
    if "cannot_load" in result:
        raise _differs(f"it cannot be loaded: {result['cannot_load']}")
    parity = parity_of(result, rows.source)
    page = {
        "format": spec.export_config.format,
        "quantization": spec.quantization,
        "runtime": result["runtime"],
        "figures": parity.model_dump(),
        "limits": asdict(limits),
        "prompts_that_differ": result["prompts_that_differ"],
        "answers": result["answers"],
        "note": note,
    }
    problems = problems_of(parity, limits, result["prompts_that_differ"])
    if problems:
        raise _differs("; ".join(problems))
    (folder / NAME).write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n")
    (folder / PAGE).write_text(_markdown(page))
    return parity


def _compare(
    spec: Spec,
    trained: TrainedWeights,
    rows: ComparisonRows,
    folder: Path,
    work: Path,
    tools: Path,
    check_stop: Callable[[], None],
) -> dict[str, Any]:
    """Run `comparison_process` and return its result.

    If the export crashes it, the result is `cannot_load`.
    """
    case_file, result_file = work / "case.json", work / "result.json"
    case = {
        "base": str(trained.base),
        "adapter": None if trained.adapter is None else str(trained.adapter),
        "format": spec.export_config.format,
        "folder": str(folder),
        "tools": str(tools),
        "gguf": spec.export.file_name if isinstance(spec.export, GgufExport) else None,
    }
    case_file.write_text(json.dumps(case | rows.to_json()))
    ended = child.run(["-m", "trainer.certificate.comparison_process", str(case_file), str(result_file)], check_stop)
    if ended.code == 0:
        result: dict[str, Any] = json.loads(result_file.read_text())
        return result
    ended.check_machine()
    if ended.code in child.CRASHES:
        return {"cannot_load": f"the process that loaded it ended with signal {-ended.code}"}
    raise RuntimeError(f"the comparison ended with {ended.code}: {ended.last_lines}")


def parity_of(result: Mapping[str, Any], source: str) -> Parity:
    """Return the metrics of a comparison as the job's record has them.

    result: of `comparison.compare`. source: where its rows come from.
    """
    loss = result["loss"]
    differing = {str(each["expected"]) for each in result["prompts_that_differ"]}
    return Parity(
        source=source,
        rows=result["rows"],
        positions=result["positions"],
        prompts=result["prompts"],
        prompts_identical=result["prompts"] - len(differing),
        change_kept=None if result["change_kept"] is None else _finite(result["change_kept"]),
        mean_kl=_finite(result["mean_kl"]),
        top1_agreement=result["top1_agreement"],
        perplexity=_finite(_exp(loss["exported"])),
        perplexity_trained=_finite(_exp(loss["trained"])),
    )


def problems_of(parity: Parity, limits: Limits, differing: list[dict[str, Any]]) -> list[str]:
    """Return in sentences which limits of its format an export exceeds.

    differing: prompts whose tokens are not those of training.
    """
    problems = []
    if differing:
        ways = ", ".join(sorted({each["way"] for each in differing}))
        problems.append(f"{len(differing)} prompts do not have the same tokens as in training ({ways})")
    if not parity.mean_kl <= limits.kl:
        problems.append(f"mean KL is {parity.mean_kl:.4g} nats per position; its format allows {limits.kl:g}")
    if parity.change_kept is not None and not parity.change_kept >= limits.change:
        problems.append(f"it keeps {parity.change_kept:.0%} of what training changed, not {limits.change:.0%}")
    if not (parity.top1_agreement - limits.top1) * parity.positions >= -NEAR_TIES:
        share = f"{parity.top1_agreement:.0%} of positions, not {limits.top1:.0%}"
        problems.append(f"the first choice is the same at {share}")
    if not parity.perplexity <= limits.perplexity * parity.perplexity_trained:
        allowed = limits.perplexity * parity.perplexity_trained
        problems.append(f"perplexity is {parity.perplexity:.4g}; its format allows {allowed:.4g}")
    return problems


def _differs(reason: str) -> StepError:
    hint = "the training result is kept; export again, or in a format that loses less"
    return StepError("export_differs", f"the export does not behave as trained: {reason}", hint=hint)


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def _finite(value: float) -> float:
    """Return a number that JSON can carry.

    The metrics of a broken model may be infinite or NaN.
    """
    return value if math.isfinite(value) else 1e300


def _markdown(page: Mapping[str, Any]) -> str:
    """Return certificate.md."""
    metrics, limits = page["figures"], page["limits"]
    trained = f"{metrics['perplexity_trained']:.4f}"
    rows = [
        f"prompts with the same tokens as in training | {metrics['prompts_identical']} of {metrics['prompts']} | all",
        f"mean KL, nats per position ({metrics['positions']} positions) | {metrics['mean_kl']:.6f} | {limits['kl']}",
        "positions with the same first choice | "
        f"{metrics['top1_agreement']:.2%} | {limits['top1']:.0%}, and {NEAR_TIES} near ties",
        f"perplexity (trained: {trained}) | {metrics['perplexity']:.4f} | {limits['perplexity']} times",
    ]
    if metrics["change_kept"] is not None:
        change = f"{metrics['change_kept']:.1%} | at least {limits['change']:.0%}"
        rows.insert(-1, f"share kept of what training changed | {change}")
    lines = [
        "# Parity certificate\n",
        f"The export ({page['format']}, {page['quantization']}) was loaded from these files by {page['runtime']}, in a "
        f"process of its own, and compared with the trained model on {metrics['rows']} {metrics['source']}.\n",
        "| metric | value | limit of the format |\n|---|---|---|",
        *(f"| {row} |" for row in rows),
        f"\nWhy these limits: {limits['reason']}.\n",
        "Positions are those that predict a token of an answer. KL is the divergence KL(trained || exported) of the "
        "next-token distributions over the whole vocabulary. What training changed is the difference of "
        "log-probabilities from those of the base model. The share kept is the coefficient of a regression: the "
        "export's difference on the trained model's.\n",
        *([f"{page['note']}\n"] if page["note"] else []),
        "## Answers\n\nEach token is the most likely one.\n",
    ]
    for answer in page["answers"]:
        trained, exported = _line(answer["trained"]), _line(answer["exported"])
        lines.append(f"**{_line(answer['prompt'])}**\n\n- trained: {trained}\n- exported: {exported}\n")
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())[:300].replace("*", "\\*").replace("<", "&lt;") or "(nothing)"
