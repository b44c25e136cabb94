"""Page of the HTTP API, from the table of endpoints."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from docs.generate.text.markdown import Page, code, codes, sentence
from docs.generate.text.schemas import type_of
from gemtune import errors
from gemtune.checks import report, row
from gemtune.datasets.uploads.record import DatasetFile
from gemtune.handlers import answers
from gemtune.handlers.description.endpoint import EVERYWHERE, FAULT, Binary, Endpoint, status_of
from gemtune.handlers.endpoints import ENDPOINTS, Document
from gemtune.jobs import record
from gemtune.jobs.events import Event
from gemtune.jobs.parts import metrics, results

# Models that answers are made of, in the order of the page.
PARTS: tuple[type[BaseModel], ...] = (
    answers.JobStatus,
    answers.Spent,
    answers.Account,
    answers.StepStatus,
    record.Attempt,
    metrics.Progress,
    metrics.Metrics,
    metrics.EvaluationMetrics,
    results.Artifact,
    results.Parity,
    record.Failure,
    results.JobWarning,
    record.JobSummary,
    Event,
    answers.ArtifactLink,
    answers.Dataset,
    DatasetFile,
    answers.PartLink,
    answers.DatasetCheck,
    answers.FileLink,
    report.CheckReport,
    report.CheckError,
    report.SplitCheck,
    report.ColumnCheck,
    report.Lengths,
    report.RowLeftOut,
    report.NearDuplicates,
    report.NearDuplicate,
    report.SamplePiece,
    row.CheckedRow,
    row.RowTokens,
    answers.ErrorAnswer,
    answers.ErrorSentence,
    answers.ProblemAnswer,
)
BODIES = {
    name: f"requests.md#{name.lower()}"
    for name in ("TrainRequest", "ExportRequest", "ResumeRequest", "DatasetUpload", "PartLinksRequest", "CheckRequest")
}
LINKS = (
    {"Status": "statuses-and-events.md#statuses"}
    | BODIES
    | {part.__name__: f"#{part.__name__.lower()}" for part in PARTS}
)


def page() -> Page:
    page = Page("HTTP API", "Every endpoint with its parameters, answers and errors.")
    page.paragraph(
        "JSON both ways. `GET /openapi.json` has the same as an OpenAPI 3.1 document. Every answer with a status of "
        "400 or above is an [ErrorAnswer](#erroranswer); [every code](error-codes.md) has a page of its "
        "own. Another path answers 404, and another method 405."
    )
    page.table(
        ("endpoint", "purpose"),
        [(f"[`{each.method} {each.path}`](#{anchor_of(each)})", f"{each.summary}.") for each in ENDPOINTS],
    )
    for endpoint in ENDPOINTS:
        _add(page, endpoint)
    page.heading("Parts of answers")
    page.paragraph("A field that may be `null` is marked *or null*.")
    for part in PARTS:
        page.heading(part.__name__, 3)
        if part.__doc__:
            page.paragraph(" ".join(part.__doc__.split()))
        page.table(("field", "type", "meaning"), _answer_rows(part))
    return page


def anchor_of(endpoint: Endpoint) -> str:
    """Return the anchor that GitHub gives to an endpoint's heading."""
    letters = [letter for letter in f"{endpoint.method} {endpoint.path}".lower() if letter.isalnum() or letter in " -_"]
    return "".join(letters).replace(" ", "-")


def _add(page: Page, endpoint: Endpoint) -> None:
    page.heading(f"{endpoint.method} {endpoint.path}", 3)
    page.paragraph(f"{endpoint.summary}.")
    if isinstance(endpoint.body, Binary):
        page.paragraph(f"Body: up to {endpoint.body.max_bytes} bytes.")
    elif endpoint.body is not None:
        page.paragraph(f"Body: [{endpoint.body.__name__}]({BODIES[endpoint.body.__name__]}).")
    page.table(
        ("parameter", "in", "value", "default", "meaning"),
        [
            (
                code(parameter.name),
                parameter.place,
                _value(parameter.schema),
                code(parameter.schema.get("default", "")),
                sentence(parameter.description),
            )
            for parameter in endpoint.parameters
        ],
    )
    page.table(
        ("status", "answer", "error codes"), [(str(endpoint.success), _answer(endpoint), ""), *_refusals(endpoint)]
    )


def _value(schema: dict[str, object]) -> str:
    return type_of({name: value for name, value in schema.items() if name != "pattern"}, {})


def _answer(endpoint: Endpoint) -> str:
    if endpoint.answer is Document:
        return "the OpenAPI document"
    if endpoint.answer.__name__ in LINKS:
        return f"[{endpoint.answer.__name__}]({LINKS[endpoint.answer.__name__]})"
    schema = endpoint.answer.model_json_schema()
    kinds = [schema["$defs"][kind["$ref"].rpartition("/")[2]] for kind in schema.get("anyOf", ())] or [schema]
    return "; or ".join(
        "; ".join(f"{code(name)}: {_with_null(field)}" for name, field in kind["properties"].items()) for kind in kinds
    )


def _refusals(endpoint: Endpoint) -> Iterator[tuple[str, str, str]]:
    names: dict[int, list[str]] = {}
    for error in (*endpoint.errors, *EVERYWHERE):
        names.setdefault(status_of(error)[0], []).append(error.code)
    names[FAULT[0]] = [errors.GemtuneError.code]
    for status, meaning in endpoint.refusals.items():
        yield str(status), sentence(meaning), codes(names[status])


def _answer_rows(part: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    for name, field in part.model_json_schema(mode="serialization")["properties"].items():
        yield code(name), _with_null(field), sentence(str(field.get("description", "")))


def _with_null(field: dict[str, object]) -> str:
    alternatives = field.get("anyOf")
    nullable = isinstance(alternatives, list) and {"type": "null"} in alternatives
    return type_of(field, LINKS) + (", or null" if nullable else "")
