"""Page of error codes, from gemtune's catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from docs.generate.text.markdown import Page, code
from gemtune import errors
from gemtune.error_codes import CATALOGUE, Chapter
from gemtune.error_codes.answers import ANSWERS
from gemtune.handlers.description.endpoint import FAULT, STATUSES

# Errors that a body is refused with before it reaches an operation: HTTP's own names and numbers.
HTTP_STATUSES: Mapping[str, str] = {
    "method_not_allowed": "405",
    "bad_request": "400",
    "request_header_fields_too_large": "431",
    "not_implemented": "501",
    "internal_server_error": "500",
}


def page() -> Page:
    page = Page("Error codes", "Every error code with its cause, its remedy, and the place where it is met.")
    page.paragraph(
        "Programs should check the code, which never changes; the text of messages may change. Every error has a "
        "`message` and most have a `hint`, which say more than this page: they name the field, the value or the file."
    )
    for chapter in CATALOGUE:
        page.heading(chapter.title)
        page.paragraph(chapter.place)
        page.table(*_table(chapter))
    return page


def _table(chapter: Chapter) -> tuple[list[str], list[list[str]]]:
    rows = [[code(name), entry.cause, entry.remedy] for name, entry in chapter.codes.items()]
    statuses = _statuses() if chapter.codes is ANSWERS else HTTP_STATUSES
    if not any(name in statuses for name in chapter.codes) or chapter.codes.keys() - statuses.keys():
        return ["code", "cause", "what to do"], rows
    with_status = [[row[0], statuses[name], *row[1:]] for name, row in zip(chapter.codes, rows, strict=True)]
    return ["code", "status", "cause", "what to do"], with_status


def _statuses() -> dict[str, str]:
    """Return the HTTP status of each error of gemtune.errors, by its code."""
    answered = {
        kind.code: next((STATUSES[base][0] for base in kind.__mro__ if base in STATUSES), FAULT[0])
        for kind in _all_kinds(errors.GemtuneError)
    }
    return {name: str(status) for name, status in answered.items()}


def _all_kinds(kind: type[errors.GemtuneError]) -> Iterator[type[errors.GemtuneError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from _all_kinds(inner)
