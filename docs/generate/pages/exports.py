"""Page of export formats, from the records that service and trainer share."""

from __future__ import annotations

from docs.generate.text.markdown import Page, code
from gemtune.request.exports import (
    EXPORTS,
    MAX_KL,
    PROBE_FACTOR,
    WITHOUT_FLOOR,
    AdapterExport,
    Export,
    GgufExport,
    MergedExport,
)

ABOUT = {"adapter": AdapterExport, "merged": MergedExport, "gguf": GgufExport}


def page() -> Page:
    page = Page("Exports", "Every format and quantization, and how much each may lose.")
    page.heading("Formats")
    page.table(
        ("format", "loaded by", "content", "quantizations, the default first"),
        [
            (
                code(name),
                each.library,
                " ".join((ABOUT[name].__doc__ or "").partition("\n\n")[0].split()),
                ", ".join(code(export.quantization) for export in each.exports),
            )
            for name, each in EXPORTS.items()
        ],
    )
    page.heading("Limits of the certificate")
    page.paragraph(
        "Every export is loaded again in its own runtime and compared with what the trained model said on held-out "
        "rows and on fixed probes. Beyond any of these limits the job fails with "
        "[`export_loses_too_much`](error-codes.md#a-job-that-failed), unless `accept_loss` is set; the training result "
        "is kept. Of the answers that the trained model has right, nine in ten have to stay right, apart from two. A "
        "file that is wrong otherwise, in a tensor, a setting or a prompt, fails with `export_differs` whatever is set."
    )
    page.table(
        (
            "format",
            "quantization",
            "weights",
            "mean KL, nats",
            "noise",
            "same first choice",
            "where learned",
            "gain kept",
            "change kept",
            "reason",
        ),
        [_limits(name, export) for name, each in EXPORTS.items() for export in each.exports],
    )
    page.items(
        [
            "**mean KL**: so many nats per position, from the trained model's predictions to the export's, are allowed "
            f"in any case; on probes {PROBE_FACTOR:g} times as many.",
            "**noise**: so many times the noise floor are allowed beyond that, up to "
            f"{MAX_KL:g} nats. The floor is the mean KL that the same rounding causes in the base model on the same "
            f"rows. Without one, after method Full, {WITHOUT_FLOOR:g} times the mean KL of the table are allowed.",
            "**same first choice**: at least this share of positions has the same most likely token, or one that is "
            "almost as likely to the trained model, apart from two positions.",
            "**where learned**: the same, of the positions at which training changed the first choice.",
            "**gain kept**: at least this share of what training gained in held-out loss, beyond two standard errors. "
            "Not for a gain below the mean KL of the table.",
            "**change kept**: at least this share of what training changed is still there: 100% is all of it, 0% is "
            "what a lost adapter shows. Not for method Full.",
        ]
    )
    return page


def _limits(format_name: str, export: Export) -> tuple[str, ...]:
    limits = export.limits
    return (
        code(format_name),
        code(export.quantization),
        export.stored,
        f"≤ {limits.kl:g}",
        f"{limits.noise:g} times",
        f"≥ {limits.top1:.0%}",
        f"≥ {limits.learned:.0%}",
        f"≥ {limits.gain:.0%}",
        f"≥ {limits.change:.0%}",
        limits.reason,
    )
