"""Benchmark of exports: seconds and peak memory of each format.

`python -m bench.export JOB [FORMAT:QUANTIZATION …]`, where JOB is a finished job of this machine, such as the one of
`make demo`. Each export is written and compared in processes of its own; memory is the peak resident set of the largest
of them. The second number of seconds is that of the processors, which other programs change less. An export that loses
too much is measured as well.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from gemtune.bootstrap import services
from gemtune.jobs.record import Claim, FencingToken
from gemtune.jobs.status import Step
from gemtune.request.exports import EXPORTS
from gemtune.request.spec import ExportConfig, Spec
from gemtune.services.advance import Advance
from trainer.context import Context
from trainer.process.thread_waiting import limit_spinning


def main(job_id: str, *chosen: str) -> None:
    """Print a row for each export.

    chosen: exports as FORMAT:QUANTIZATION; without any, all are measured.
    """
    limit_spinning()  # as the trainer does
    print(
        "| export | MB | write, s | compared in 16 bits, s | peak, MB | certificate, s | peak, MB | KL | same choice "
        "| perplexity (trained) | noise floor | verdict |"
    )
    print(f"|{'---|' * 12}")
    for export_format, kind in EXPORTS.items():
        for quantization in (export.quantization for export in kind.exports):
            if chosen and f"{export_format}:{quantization}" not in chosen:
                continue
            with tempfile.TemporaryDirectory() as work:
                written, write = _run_phase(job_id, export_format, quantization, "write", work)
                parity, compare = _run_phase(job_id, export_format, quantization, "compare", work, written["note"])
            cells = (
                f"{export_format} {quantization}",
                f"{written['bytes'] / 1e6:.1f}",
                f"{write['seconds'] - written['compared']:.1f} | {written['compared']:.1f} | {write['peak']:.0f}",
                f"{compare['seconds']:.1f} ({compare['processor']:.1f}) | {compare['peak']:.0f}",
                f"{parity['mean_kl']:.4f} | {parity['top1_agreement']:.1%}",
                f"{parity['perplexity']:.3f} ({parity['perplexity_trained']:.3f})",
                "-" if parity["noise_floor"] is None else f"{parity['noise_floor']:.4f}",
                parity["verdict"],
            )
            print(f"| {' | '.join(cells)} |", flush=True)


def _run_phase(*arguments: str) -> tuple[dict[str, Any], dict[str, float]]:
    """Run `_phase` in a process of its own; return its result and its cost."""
    ran = subprocess.run([sys.executable, "-m", "bench.export", *arguments], stdout=subprocess.PIPE, check=True)
    result, cost = (json.loads(line) for line in ran.stdout.splitlines()[-2:])
    return result, cost


def _phase(job_id: str, export_format: str, quantization: str, phase: str, work: str, note: str = "") -> None:
    """Write or compare an export; print the result, and seconds and peak MB.

    note: of the written export, for its certificate.
    """
    from trainer.certificate import parity_check
    from trainer.export import trained_weights
    from trainer.steps import export, export_files

    context = _context(job_id, export_format, quantization, Path(work))
    trained, folder = trained_weights.locate(context), Path(work) / "exported"
    began = time.perf_counter()
    if phase == "write":
        check = parity_check.TimedCheck(export.certificate_of(context, trained, folder, ""))
        note = export_files.write(context, trained, folder, check_exact=check)
        size = sum(path.stat().st_size for path in folder.iterdir())
        result: dict[str, Any] = {"bytes": size, "note": note, "compared": check.seconds}
    else:
        result = parity_check.issue(export.certificate_of(context, trained, folder, note)).model_dump()
    seconds = time.perf_counter() - began
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cost = {
        "seconds": seconds,
        "processor": sum(usage.ru_utime + usage.ru_stime for usage in usages),
        "peak": max(usage.ru_maxrss for usage in usages) / 1e3,
    }
    print(json.dumps(result), json.dumps(cost), sep="\n")


class _Unrecorded(Advance):
    """Record of a step that is repeated after its job is over."""

    def record_phase(self, job_id: str, fence: FencingToken, *, phase: str) -> None:
        """Record nothing."""


def _context(job_id: str, export_format: str, quantization: str, work: Path) -> Context:
    """Return the context of the job's export step, with another format."""
    embedded = services()
    job = embedded.store.get(job_id)
    spec = Spec.model_validate_json(embedded.buckets.config.read(job.spec_name))
    export_config = ExportConfig.model_validate(
        {"format": export_format, "quantization": quantization, "accept_loss": True}
    )
    fence = FencingToken(claim=Claim(launch=0, execution="bench"), step=Step.EXPORT, attempt=0)
    return Context(
        job=job,
        spec=spec.model_copy(update={"export_config": export_config}),
        fence=fence,
        buckets=embedded.buckets,
        advance=_Unrecorded(**{field.name: getattr(embedded.advance, field.name) for field in fields(Advance)}),
        work=work,
        secret=lambda role: None,
        deadline=None,
        clock=embedded.clock,
        should_stop=lambda: False,
        llama_cpp=embedded.settings.llama_cpp,
    )


if __name__ == "__main__":
    _phase(*sys.argv[1:]) if sys.argv[4:5] in (["write"], ["compare"]) else main(*sys.argv[1:])
