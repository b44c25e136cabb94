"""Parity certificate: proof that an export behaves as the trained model.

The export is loaded again from its files, in the runtime of its format, and compared with what the trained model said.
If a file is wrong, or if it loses more than the limits of its format allow, the export fails. This module imports no
torch; a separate process computes.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gemtune import families
from gemtune.errors import StepError
from gemtune.jobs.parts.results import Parity
from gemtune.request.exports import Limits
from gemtune.request.spec import Spec
from trainer.base_model import folder_contents
from trainer.certificate import page, verdict
from trainer.certificate.held_out_rows import ComparisonRows
from trainer.certificate.verdict import Check
from trainer.export.trained_weights import TrainedWeights
from trainer.process import child

log = logging.getLogger(__name__)

NAME, PAGE = "certificate.json", "certificate.md"


class LosesTooMuch(Exception):
    """Raised for an export with the right files whose rounding costs too much.

    Its text says which limits are exceeded, and by what.
    """


@dataclass(frozen=True, slots=True)
class Certificate:
    """Export to issue a certificate for.

    rows: returns those to compare on, if training recorded no reference; those with pictures or audio need one, and
    collecting them reads the tokenizer. work: a folder for temporary files. tools: the folder of llama.cpp. note: a
    sentence on how the export was made. write_base: writes the base model as the export was written, for the noise
    floor, and returns the file or folder; None if all weights were trained. compare: does what `comparison_process`
    does with a case; None is that process. seconds: those that checks took before, which count for the certificate.
    """

    spec: Spec
    trained: TrainedWeights
    rows: Callable[[], ComparisonRows]
    folder: Path
    work: Path
    tools: Path
    check_stop: Callable[[], None]
    note: str = ""
    write_base: Callable[[], Path] | None = None
    compare: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    seconds: float = 0.0


def issue(certificate: Certificate, monotonic: Callable[[], float] = time.monotonic) -> Parity:
    """Compare an export with the trained model, and write the certificate.

    monotonic: clock, in seconds. Raises StepError `export_differs` if the export is not the trained model, LosesTooMuch
    with the metrics, and MemoryError or OSError if the machine lacks memory or disk.
    """
    began, spec = monotonic(), certificate.spec
    result = _run(certificate, {})
    if "cannot_load" in result:
        raise _differs(f"it cannot be loaded: {result['cannot_load']}")
    problems = [*result.get("faults", ()), *_prompt_problems(result.get("prompts_that_differ", ()))]
    if problems:
        raise _differs("; ".join(problems))
    has_experts = families.has_experts(folder_contents.config_of(certificate.trained.base))
    limits = verdict.limits_for(spec.export.limits, spec.training_config.method, has_experts=has_experts)
    checks, floor = _checks(certificate, result, limits)
    losses = tuple(f"{check.name} is {check.value}, and not {check.limit}" for check in checks if not check.passed)
    if losses and not spec.export_config.accept_loss:
        raise LosesTooMuch(f"the export loses too much of the training: {'; '.join(losses)}")
    parity = verdict.parity_of(result, limits, floor).model_copy(
        update={
            "verdict": "loss_accepted" if losses else "passed",
            "losses": losses,
            "differences": _known_differences(result, spec),
            "seconds": round(certificate.seconds + monotonic() - began, 1),
        }
    )
    _write(certificate, parity, checks, asdict(limits), result)
    return parity


def check_function(certificate: Certificate, file: Path) -> None:
    """Check that llama.cpp computes the function that was trained.

    file: the trained model as GGUF in 16 bits. Limits of formats cannot show that: they allow for rounding. After
    QLoRA the record is of a model in 4 bits, so what the adapter and the original base model say is computed. Raises
    StepError `export_differs`.
    """
    trained = certificate.trained
    if certificate.spec.training_config.method == "QLoRA":
        trained = replace(trained, reference=None)
    result = _run(replace(certificate, trained=trained), {"exact": str(file)})
    if "cannot_load" in result:
        raise _differs(f"llama.cpp cannot run it: {result['cannot_load']}")
    deviation, limit = result["deviation"], verdict.allowed_deviation(result["noise"])
    log.info("llama.cpp's logits in 16 bits deviate by %.2g of their variance; at most %.2g may", deviation, limit)
    if not deviation <= limit:
        share = f"{deviation:.2g} of their variance, and not at most {limit:.2g}"
        raise _differs(f"llama.cpp computes it otherwise than transformers: logits in 16 bits deviate by {share}")


class TimedCheck:
    """`check_function` of a certificate, and the seconds that it took."""

    def __init__(self, certificate: Certificate, monotonic: Callable[[], float] = time.monotonic):
        self.seconds = 0.0
        self._certificate, self._monotonic = certificate, monotonic

    def __call__(self, file: Path) -> None:
        """Check a file. Raises StepError `export_differs`."""
        began = self._monotonic()
        check_function(self._certificate, file)
        self.seconds += self._monotonic() - began


def _write(
    certificate: Certificate,
    parity: Parity,
    checks: Sequence[Check],
    limits: Mapping[str, Any],
    result: Mapping[str, Any],
) -> None:
    """Write certificate.json and certificate.md."""
    stored = {
        "format": certificate.spec.export_config.format,
        "quantization": certificate.spec.quantization,
        "runtime": result["runtime"],
        "figures": parity.model_dump(),
        "checks": [asdict(check) for check in checks],
        "limits": limits,
        "prompts_that_differ": result["prompts_that_differ"],
        "answers": result["answers"],
        "note": certificate.note,
    }
    (certificate.folder / NAME).write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    (certificate.folder / PAGE).write_text(page.markdown(stored))


def _checks(
    certificate: Certificate, result: Mapping[str, Any], limits: Limits
) -> tuple[list[Check], verdict.Floor | None]:
    """Return the checks of an export, and the noise floor if it was measured.

    The floor costs another export, of the base model. It can only widen limits, so it is measured if one is exceeded.
    """
    checks = verdict.checks_of(result, limits, verdict.NO_NOISE)
    if all(check.passed for check in checks):
        return checks, None
    floor = None if certificate.write_base is None else _measure_floor(certificate, certificate.write_base)
    return verdict.checks_of(result, limits, floor), floor


def _measure_floor(certificate: Certificate, write_base: Callable[[], Path]) -> verdict.Floor:
    """Measure the noise floor by kind of row."""
    place = write_base()
    floor = _run(certificate, {"floor": str(place)})
    if "cannot_load" in floor:
        raise RuntimeError(f"the base model as exported could not be measured: {floor['cannot_load']}")
    if place != certificate.trained.base and place.is_relative_to(certificate.work):
        shutil.rmtree(place if place.is_dir() else place.parent)
    return floor


def _run(certificate: Certificate, more: Mapping[str, Any]) -> dict[str, Any]:
    """Compare in another process, unless the certificate says how.

    If the export crashes it, the result is `cannot_load`.
    """
    spec, trained = certificate.spec, certificate.trained
    case = {
        "base": str(trained.base),
        "adapter": None if trained.adapter is None else str(trained.adapter),
        "format": spec.export_config.format,
        "quantization": spec.quantization,
        "was_dithered": bool(certificate.note),
        "folder": str(certificate.folder),
        "tools": str(certificate.tools),
        "reference": None if trained.reference is None else str(trained.reference),
        "rows": None if trained.reference is not None else certificate.rows().texts().to_json(),
    } | dict(more)
    if certificate.compare is not None:
        return certificate.compare(case)
    case_file, result_file = certificate.work / "case.json", certificate.work / "result.json"
    case_file.write_text(json.dumps(case))
    arguments = ["-P", "-m", "trainer.certificate.comparison_process", str(case_file), str(result_file)]
    ended = child.run(arguments, certificate.check_stop)
    if ended.code == 0:
        result: dict[str, Any] = json.loads(result_file.read_text())
        return result
    ended.check_machine()
    if ended.code in child.CRASHES:
        return {"cannot_load": f"the process that loaded it ended with signal {-ended.code}"}
    raise RuntimeError(f"the comparison ended with {ended.code}: {ended.last_lines}")


def _prompt_problems(differing: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in a sentence which prompts have other tokens than in training."""
    if not differing:
        return []
    ways, names = (", ".join(sorted({each[key] for each in differing})) for key in ("way", "name"))
    return [f"{len(differing)} prompts do not have the same tokens as in training ({ways}: {names})"]


def _known_differences(result: Mapping[str, Any], spec: Spec) -> tuple[str, ...]:
    """Return in sentences what the files knowingly do otherwise."""
    differences = []
    if result["prompts_untrimmed"]:
        names = ", ".join(sorted(set(result["prompts_untrimmed"])))
        differences.append(
            "Ollama does not trim messages, and the chat template of training does: blanks around a message reach the "
            f"model ({names})"
        )
    if result["media_rows"] > result["media_compared"]:
        differences.append(
            f"{result['runtime']} reads only text here: {result['media_rows']} {result['media_source']} with pictures "
            "or audio were not compared"
        )
    if spec.training_config.method == "QLoRA":
        differences.append(
            "the adapter was trained on the base model in 4 bits, and these files are for the original base model: the "
            "divergence includes that difference"
        )
    return tuple(differences)


def _differs(reason: str) -> StepError:
    hint = "the training result is kept: export again; if it fails again, it is a fault of gemtune"
    return StepError("export_differs", f"the export is not the trained model: {reason}", hint=hint)
