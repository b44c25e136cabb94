"""Rows of a dataset over HTTP, page by page."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from pathlib import Path
from typing import Any

import flask.testing
import pytest

from gemtune import bootstrap
from gemtune.datasets.files import row_pages
from gemtune.datasets.files.table_header import NOT_UTF8
from gemtune.services.datasets import listing
from tests import rows, tiny_gemma
from tests.handlers.conftest import embedded_only


def put(services: bootstrap.Services, name: str, content: bytes) -> None:
    services.buckets.data.write(f"processed_datasets/mine/{name}", content)


def jsonl(content: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in content).encode()


def page(api: flask.testing.FlaskClient, **query: Any) -> dict[str, Any]:
    answer = api.get("/datasets/mine/rows", query_string=query)
    assert answer.status_code == 200, answer.json
    return dict(answer.json or {})


def everything(api: flask.testing.FlaskClient, *, limit: int = 200, **query: Any) -> list[dict[str, Any]]:
    shown, after = [], {}
    while True:
        one = page(api, limit=limit, **query, **after)
        assert len(one["rows"]) <= limit
        shown += one["rows"]
        if one["next_after"] is None:
            return shown
        after = {"after": one["next_after"]}


def test_rows_are_shown_as_they_are_page_by_page(api: flask.testing.FlaskClient, services: bootstrap.Services) -> None:
    content = rows.train_rows(7)
    put(services, "train-0.jsonl", jsonl(content[:5]) + b"not json\n")
    put(services, "train-1.jsonl", b"\n" + jsonl(content[5:]))
    put(services, "eval.jsonl", jsonl(rows.held_out_rows(2)))
    shown = everything(api, limit=2)
    assert [row["content"] for row in shown] == [*content[:5], "not json\n", *content[5:]]
    assert [(row["file"], row["row"]) for row in shown[-3:]] == [
        ("train-0.jsonl", 6),
        ("train-1.jsonl", 2),
        ("train-1.jsonl", 3),
    ]
    assert shown[5]["reason"] is not None
    assert [row["content"] for row in everything(api, split="held_out")] == rows.held_out_rows(2)


@embedded_only
def test_tables_are_shown_by_the_names_of_their_columns(
    api: flask.testing.FlaskClient, services: bootstrap.Services
) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["prompt", "completion"], ["two\nlines", 'a "b"'], ["x", ""], ["only one"]])
    inches = 'a TV,5" screen\x0c of\u2028today\r\nanother,6" screen\r\n'
    put(services, "train.csv", b"\xef\xbb\xbf" + (text.getvalue() + inches).encode() + b"caf\xe9,\r\n")
    shown = everything(api, limit=1)
    assert [row["content"] for row in shown[:2]] == [{"prompt": "two\nlines", "completion": 'a "b"'}, {"prompt": "x"}]
    assert "1 cells, where the first line names 2 columns" in shown[2]["reason"]
    assert [row["content"] for row in shown[3:5]] == [
        {"prompt": "a TV", "completion": '5" screen\x0c of\u2028today'},
        {"prompt": "another", "completion": '6" screen'},
    ]
    assert (len(shown), shown[5]["reason"]) == (6, NOT_UTF8)


@embedded_only
def test_a_huge_row_is_named_and_pages_stay_small(api: flask.testing.FlaskClient, services: bootstrap.Services) -> None:
    huge = b'{"prompt": "' + b"x" * (50 * 1024 * 1024) + b'", "completion": "y"}\n'
    large = jsonl([{"prompt": "x" * 400_000, "completion": str(number)} for number in range(5)])
    put(services, "train.jsonl", jsonl([{"first": 1}]) + huge + large)
    first = page(api, limit=3)
    assert [(row["row"], row["content"] is None) for row in first["rows"]] == [(1, False), (2, True), (3, False)]
    assert first["rows"][1]["reason"] == "longer than 1048576 bytes"
    shown = everything(api, limit=200)
    assert [row["row"] for row in shown] == list(range(1, 8))
    assert len(page(api, limit=200)["rows"]) < 7


def test_a_cell_may_be_as_long_as_a_row(api: flask.testing.FlaskClient, services: bootstrap.Services) -> None:
    put(services, "train.csv", b"prompt,completion\n" + b"a" * 200_000 + b",b\n")
    csv.field_size_limit(131_072)  # Python's own, which other readers in this process may have raised
    (row,) = page(api)["rows"]
    assert (row["reason"], len(row["content"]["prompt"])) == (None, 200_000)


@embedded_only
@pytest.mark.parametrize("cell", [b'"' + b"x\n" * 1000 + b'"', b"x" * 2000], ids=["quoted", "plain"])
def test_a_long_row_of_a_table_is_skipped_over_several_pages(
    api: flask.testing.FlaskClient, services: bootstrap.Services, cell: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in {"CHUNK": 50, "LONGEST_ROW": 100, "MOST_BYTES": 300}.items():
        monkeypatch.setattr(row_pages, name, size)
    put(services, "train.csv", b"prompt,completion\na,b\n" + cell + b",c\nd,e\n")
    assert [(row["row"], row["content"]) for row in everything(api)] == [
        (1, {"prompt": "a", "completion": "b"}),
        (2, None),
        (3, {"prompt": "d", "completion": "e"}),
    ]


@embedded_only
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl.gz", gzip.compress(jsonl(rows.train_rows(2)), mtime=0)),
        ("train.json", json.dumps(rows.train_rows(2)).encode()),
        ("train.json", json.dumps({"data": rows.train_rows(2)}).encode()),
        ("train.parquet", b"PAR1"),
        ("train.jsonl", '{"prompt": "a"}\n'.encode("utf-16")),
    ],
)
def test_files_that_cannot_be_read_from_the_middle_need_a_check(
    api: flask.testing.FlaskClient, services: bootstrap.Services, name: str, content: bytes
) -> None:
    put(services, name, content)
    answer = api.get("/datasets/mine/rows")
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "rows_not_readable")
    assert "check_id" in answer.json["error"]["hint"]


def test_a_dataset_of_very_many_files_needs_a_check(
    api: flask.testing.FlaskClient, services: bootstrap.Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_LISTED", 2)
    for name in ("pictures/0.png", "pictures/1.png", "train.jsonl"):
        put(services, name, jsonl(rows.train_rows(1)))
    error = api.get("/datasets/mine/rows").json["error"]  # type: ignore[index]
    assert (error["code"], "more than" in error["message"], "check_id" in error["hint"]) == (
        "rows_not_readable",
        True,
        True,
    )


@embedded_only
def test_missing_things_and_strange_pages_are_named(
    api: flask.testing.FlaskClient, services: bootstrap.Services
) -> None:
    assert api.get("/datasets/nothing/rows").json["error"]["code"] == "no_such_dataset"  # type: ignore[index]
    put(services, "train.jsonl", jsonl(rows.train_rows(2)))
    for after in ("9-0-0-0", "0-0-0-3", "x"):
        answer = api.get(f"/datasets/mine/rows?after={after}")
        assert (answer.status_code, answer.json["error"]["code"]) == (422, "bad_page_token")  # type: ignore[index]
    assert page(api, after="0-999999-7-0")["rows"] == []
    assert page(api, split="held_out")["rows"] == []
    answer = api.get("/datasets/mine/rows?check_id=check_0123456789ab")
    assert (answer.status_code, answer.json["error"]["code"]) == (404, "no_such_check")  # type: ignore[index]


@embedded_only
def test_a_check_shows_text_tokens_and_mask_of_any_file(
    api: flask.testing.FlaskClient, services: bootstrap.Services, tmp_path: Path
) -> None:
    content = [*rows.train_rows(6), {"messages": 5}]
    put(services, "train.jsonl.gz", gzip.compress(jsonl(content)))
    base = tiny_gemma.build(tmp_path / "base")
    body = {"base_model_id": str(base), "training_config": {"gradient_accumulation_steps": 1}}
    begun = api.post("/datasets/mine/check", json=body).json
    assert begun is not None
    while api.get(f"/datasets/mine/checks/{begun['check_id']}").json["status"] == "running":  # type: ignore[index]
        time.sleep(0.05)
    shown = everything(api, check_id=begun["check_id"], limit=4)
    assert [row["content"] for row in shown] == content
    assert shown[6]["reason"] is not None
    assert (shown[6]["text"], shown[6]["tokens"]) == (None, None)
    for row in shown[:6]:
        (tokens,) = row["tokens"]
        assert len(tokens["ids"]) == len(tokens["texts"]) == len(tokens["trained"])
        answer = row["content"]["messages"][1]["content"]
        trained = "".join(piece["text"] for piece in row["text"] if piece["trained"])
        assert trained == f"{answer}<end_of_turn>\n"
        assert 0 < sum(tokens["trained"]) < len(tokens["ids"])
    nothing = api.get(f"/datasets/mine/rows?split=held_out&check_id={begun['check_id']}")
    assert nothing.json["error"]["code"] == "rows_not_readable"  # type: ignore[index]
