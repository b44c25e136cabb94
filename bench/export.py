"""`python -m bench.export JOB`: seconds and peak memory of each export format, of a job of this machine that is over.

`make demo` leaves such a job of Gemma 3 270M. Each format is written and compared in processes of its own; memory is
the peak resident set of the largest of them.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gemtune.bootstrap import services
from gemtune.jobs.record import Claim, FencingToken
from gemtune.jobs.status import Step
from gemtune.request.exports import EXPORTS
from gemtune.request.spec import ExportConfig, Spec
from trainer.context import Context


def main(job_id: str) -> None:
    print("| export | MB | write, s | peak, MB | certificate, s | peak, MB | KL | same choice | perplexity (trained) |")
    print("|---|---|---|---|---|---|---|---|---|")
    for format, kind in EXPORTS.items():
        for quantization in (export.quantization for export in kind.exports):
            with tempfile.TemporaryDirectory() as work:
                size, written = _alone(job_id, format, quantization, "write", work)
                seen, compared = _alone(job_id, format, quantization, "compare", work)
            cost = (
                f"{written['seconds']:.1f} | {written['peak']:.0f} | {compared['seconds']:.1f} | {compared['peak']:.0f}"
            )
            figures = f"{seen['mean_kl']:.4f} | {seen['top1_agreement']:.1%} | {seen['perplexity']:.3f}"
            print(f"| {format} {quantization} | {size['bytes'] / 1e6:.1f} | {cost} | {figures} "
                  f"({seen['perplexity_trained']:.3f}) |", flush=True)  # fmt: skip


def _alone(*arguments: str) -> tuple[dict[str, Any], dict[str, float]]:
    """What a phase found, and what it cost, in a process of its own."""
    ran = subprocess.run([sys.executable, "-m", "bench.export", *arguments], stdout=subprocess.PIPE, check=True)
    found, cost = (json.loads(line) for line in ran.stdout.splitlines()[-2:])
    return found, cost


def _phase(job_id: str, format: str, quantization: str, phase: str, work: str) -> None:
    from trainer.certificate import held_out_rows, parity_check
    from trainer.export import trained_weights
    from trainer.steps import export

    context = _context(job_id, format, quantization, Path(work))
    trained, folder = trained_weights.locate(context), Path(work) / "exported"
    began = time.perf_counter()
    if phase == "write":
        export.write(context, trained, folder)
        found: dict[str, Any] = {"bytes": sum(path.stat().st_size for path in folder.iterdir())}
    else:
        asked = held_out_rows.collect(trained.prepared, trained.folder)
        parity = parity_check.issue(
            context.spec, trained, asked, folder, Path(work), context.llama_cpp, check_stop=lambda: None
        )
        found = parity.model_dump()
    seconds = time.perf_counter() - began
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps(found), json.dumps({"seconds": seconds, "peak": peak / 1e3}), sep="\n")


def _context(job_id: str, format: str, quantization: str, work: Path) -> Context:
    here = services()
    job = here.store.get(job_id)
    spec = Spec.model_validate_json(here.buckets.config.read(job.spec_name))
    wanted = ExportConfig.model_validate({"format": format, "quantization": quantization})
    fence = FencingToken(claim=Claim(launch=0, execution="bench"), step=Step.EXPORT, attempt=0)
    return Context(
        job=job, spec=spec.model_copy(update={"export_config": wanted}), fence=fence, buckets=here.buckets,
        advance=here.advance, work=work, secret=lambda role: None, deadline=None, clock=here.clock,
        should_stop=lambda: False, llama_cpp=here.settings.llama_cpp,
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else _phase(*sys.argv[1:])
