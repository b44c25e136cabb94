"""Job files in YAML 1.2 and JSON, and the refusal of everything else."""

from __future__ import annotations

from typing import Any

import pytest

from gemtune.errors import RequestRefused
from gemtune.request.uploads.job_file import as_json


def refusal(content: bytes, *, yaml: bool = True) -> str:
    with pytest.raises(RequestRefused) as caught:
        as_json(content, yaml=yaml)
    (problem,) = caught.value.problems
    return problem.code


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("null", None),
        ("2e-4", 2e-4),
        ("1.5e-05", 1.5e-05),
        ("0x10", 16),
        ("0o17", 15),
        ("010", 10),
        ("12:30:45", "12:30:45"),
        ("'4'", "4"),
        ("2026-11-24", "2026-11-24"),
        ("2026-1-2", "2026-1-2"),
        ("2026-13-45", "2026-13-45"),
        ("2026-11-24T00:00:00Z", "2026-11-24T00:00:00Z"),
        ("=", "="),
        ("NO", "NO"),
        ("1_000", 1000),
        ("[a, 1]", ["a", 1]),
        ("{b: c}", {"b": "c"}),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("gs://bucket/folder", "gs://bucket/folder"),
        ("ünï ☃ 😀", "ünï ☃ 😀"),
    ],
)
def test_yaml_is_read_as_version_1_2(text: str, value: Any) -> None:
    document = as_json(f"a: {text}".encode(), yaml=True)
    assert document == {"a": value}
    assert type(document["a"]) is type(value)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"a: &x 1\nb: *x", "yaml_alias"),
        (b"a: &a [*a]", "yaml_alias"),
        (b"base: &b {x: 1}\nc:\n  <<: *b", "yaml_alias"),
        (b"a: &x 1\nb: 2", "yaml_alias"),
        (b"a: &x {b: 1}", "yaml_alias"),
        (b"<<: {x: 1}\ny: 2", "yaml_alias"),
        (b"a: <<", "yaml_alias"),
        (b"a: 1\na: 2", "repeated_key"),
        (b"a: {b: 1, b: 2}", "repeated_key"),
        (b"%YAML 1.1\n---\na: no", "yaml_directive"),
        (b"# a comment\n%YAML 1.0\n---\na: 1", "yaml_directive"),
        (b"%YAML 1.3\n---\na: 1", "yaml_directive"),
        (b"%YAML 2.0\n---\na: 1", "yaml_directive"),
        (b"%TAG ! tag:x,2000:\n---\na: 1", "yaml_directive"),
        (b"%LATER 1\n---\na: 1", "yaml_directive"),
        (b"%YAML 1.2\n---\n" + b"[" * 30_000, "too_deep"),
        (b"a: 1\n...\n%YAML 1.3\n---\nb: 1", "not_yaml"),
        (b"a: 1\n---\n", "not_yaml"),
        (b"1: a", "not_yaml"),
        (b"a: {0x10: b}", "not_yaml"),
        (b"a: [{true: b}]", "not_yaml"),
        (b"null: a", "not_yaml"),
        (b"a:\n\tb: 1", "not_yaml"),
        (b"a: b: c", "not_yaml"),
        (b"a: 'x", "not_yaml"),
        (b"a: \x00", "not_yaml"),
        (b"--- 1\n--- 2", "not_yaml"),
        (b"? [a]\n: b", "not_yaml"),
        (b"a: " + b"1" * 5000, "not_yaml"),
        (b"a: !!python/object/apply:os.system [x]", "yaml_tag"),
        (b"a: !mine x", "yaml_tag"),
        (b"a: !!bool maybe", "yaml_tag"),
        (b"a: !!int ''", "yaml_tag"),
        (b"!!set {a, b}", "yaml_tag"),
        (b"a: \xff", "not_text"),
        ("a: ä".encode("utf-16"), "not_text"),
    ],
)
def test_anything_but_plain_yaml_is_refused(content: bytes, code: str) -> None:
    assert refusal(content) == code


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not_json"),
        (b"{'a': 1}", "not_json"),
        (b'{"a": 1,}', "not_json"),
        (b"[" * 100_000, "too_deep"),
        (b"1" * 5000, "too_many_digits"),
        (b"\xc3", "not_text"),
    ],
)
def test_invalid_json_is_refused(content: bytes, code: str) -> None:
    assert refusal(content, yaml=False) == code


@pytest.mark.parametrize("kind", [b"[", b"{a: ", b"- ", b"? "])
def test_a_deeply_nested_file_is_refused_before_it_is_parsed(kind: bytes) -> None:
    """Refuse deep files early: parsing takes time quadratic in the depth."""
    assert refusal(kind * (60_000 // len(kind))) in ("too_deep", "not_yaml")


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"%YAML 1.2\n---\na: no", {"a": "no"}),
        (b"'<<': {x: 1}", {"<<": {"x": 1}}),
        (b"'1': a\n'true': b", {"1": "a", "true": "b"}),
        (b"a: 1\n...\n", {"a": 1}),
        (b'{"a": "x\n%YAML 1.1"}', {"a": "x %YAML 1.1"}),
    ],
)
def test_what_looks_like_an_oddity_and_is_none_is_read(content: bytes, value: Any) -> None:
    assert as_json(content, yaml=True) == value


def test_an_error_names_line_and_column() -> None:
    with pytest.raises(RequestRefused, match=r"line 2, column \d"):
        as_json(b"a: 1\nb: [", yaml=True)
    with pytest.raises(RequestRefused, match="line 2, column 1"):
        as_json(b'{"a":\n', yaml=False)


@pytest.mark.parametrize("yaml", [True, False])
def test_a_byte_order_mark_is_skipped(yaml: bool) -> None:
    assert as_json(b'\xef\xbb\xbf{"a": 1}', yaml=yaml) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"# only a comment", b"---"])
def test_an_empty_yaml_file_is_null(content: bytes) -> None:
    assert as_json(content, yaml=True) is None
