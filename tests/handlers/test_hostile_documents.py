"""Documents as large as they may be, made to be slow.

In quadratic time each would take minutes, and other callers of the service would wait. No test here measures time: they
count what takes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import flask.testing
import pytest

from gemtune.datasets.files.table_header import BadHeader, read_header
from gemtune.handlers.http_api import MAX_BODY_BYTES
from gemtune.jobs.sources import Source
from gemtune.request.parsing import MOST_PROBLEMS, read
from gemtune.untrusted import first_repeated
from tests.fakes import request
from tests.handlers.conftest import embedded_only

NAMES = [f"k{number}" for number in range(80_000)]


def document(**fields: Any) -> bytes:
    return json.dumps(request(**fields)).encode()


DOCUMENTS: Mapping[str, bytes] = {
    "unknown fields": json.dumps(dict.fromkeys(NAMES, 1)).encode(),
    "a key twice at the end": json.dumps(dict.fromkeys(NAMES[:75_000], 1)).encode()[:-1] + b', "k74999": 1}',
    "wrong items": document(training={"new_tokens": [1] * 200_000}),
    "tokens": document(dataset_columns=dict.fromkeys(NAMES[:30000], "hf_fakefakefake")),
}


@embedded_only
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_large_document_is_refused_with_some_of_its_problems(api: flask.testing.FlaskClient, name: str) -> None:
    assert len(DOCUMENTS[name]) <= MAX_BODY_BYTES
    answer = api.post("/train", data=DOCUMENTS[name])
    assert (answer.status_code, answer.mimetype) == (422, "application/json")
    assert answer.json is not None
    assert len(answer.json["problems"]) <= 2 * (MOST_PROBLEMS + 1)


def test_problems_beyond_those_listed_are_counted() -> None:
    few, many = (dict.fromkeys(NAMES[:count], 1) for count in (MOST_PROBLEMS, MOST_PROBLEMS + 7))
    assert {problem.code for problem in read(json.dumps(request(**few)), Source.HTTP).problems} == {"unknown_field"}
    reading = read(json.dumps(request(**many)), Source.HTTP)
    *listed, last = reading.problems
    assert {problem.code for problem in listed} == {"unknown_field"}
    assert (len(listed), last.code, last.msg) == (MOST_PROBLEMS, "more_problems", "7 further problems are not listed")
    assert reading.request is None


class Name(str):
    """Text that counts comparisons."""

    compared = 0

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)


def test_repeated_names_are_found_without_comparing_all_pairs() -> None:
    names = [Name(name) for name in NAMES[:300]]
    assert first_repeated(names) is None
    assert first_repeated([*names, Name("k299"), Name("k0")]) == "k299"
    assert Name.compared < len(names)


def test_a_table_may_have_very_many_columns() -> None:
    assert read_header(",".join(NAMES).encode(), tabs=False)[0] == NAMES
    with pytest.raises(BadHeader, match="'k7'"):
        read_header(",".join([*NAMES, "k7"]).encode(), tabs=False)
