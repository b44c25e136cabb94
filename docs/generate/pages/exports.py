"""Page of export formats, from the records that service and trainer share."""

from __future__ import annotations

from docs.generate.text.markdown import Page, code
from gemtune.request.exports import EXPORTS, AdapterExport, Export, GgufExport, MergedExport

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
        "Every export is loaded again in its own runtime and compared with the trained model on held-out rows. Beyond "
        "any of these limits the job fails with [`export_differs`](error-codes.md#a-job-that-failed); the training "
        "result is kept."
    )
    page.table(
        (
            "format",
            "quantization",
            "weights",
            "mean KL, nats",
            "same first choice",
            "perplexity",
            "change kept",
            "reason",
        ),
        [_limits(name, export) for name, each in EXPORTS.items() for export in each.exports],
    )
    page.items(
        [
            "**mean KL**: at most so many nats per position, from the trained model's predictions to the export's.",
            "**same first choice**: at least this share of positions has the same most likely token.",
            "**perplexity**: at most so many times that of the trained model.",
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
        f"≥ {limits.top1:.0%}",
        f"≤ {limits.perplexity:,g} times",
        f"≥ {limits.change:.0%}",
        limits.reason,
    )
