"""The reader of untrusted text: each limit, just within and just beyond it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemtune import untrusted
from gemtune.untrusted import Unreadable, read_file, read_json, read_json_object, read_number, read_yaml


def fault(call: Any, *arguments: Any, **more: Any) -> str:
    with pytest.raises(Unreadable) as caught:
        call(*arguments, **more)
    error = caught.value
    assert error.hint
    json.dumps([error.message, error.hint, error.loc], ensure_ascii=False).encode()
    return error.code


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(JSON, st.booleans())
def test_any_json_is_read_as_it_was_written(value: Any, ascii_only: bool) -> None:
    written = json.dumps(value, ensure_ascii=ascii_only)
    assert read_json(written) == read_json(written.encode()) == value


@given(st.binary() | st.text().map(lambda text: json.dumps({"a": text, text: [1, text]}).encode()))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for read in (read_json, read_yaml):
        try:
            value = read(content)
        except Unreadable as error:
            error.message.encode()
        else:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def test_the_limits_match_the_documentation() -> None:
    assert (untrusted.MAX_BYTES, untrusted.MAX_YAML_BYTES) == (1_048_576, 65_536)
    assert (untrusted.MAX_MODEL_FILE_BYTES, untrusted.MAX_DEPTH) == (134_217_728, 80)
    assert (untrusted.MAX_DIGITS, untrusted.MAX_NUMBER) == (300, 9_007_199_254_740_991)


def test_nesting_beyond_the_limit_is_refused() -> None:
    assert read_json(nested(untrusted.MAX_DEPTH))
    assert fault(read_json, nested(untrusted.MAX_DEPTH + 1)) == "too_deep"
    assert fault(read_json, b'{"a":' * 500_000, max_bytes=2**30) == "too_deep"
    assert read_yaml(nested(untrusted.MAX_DEPTH))
    assert fault(read_yaml, nested(untrusted.MAX_DEPTH + 1)) == "too_deep"


def test_brackets_inside_a_string_do_not_count_as_nesting() -> None:
    assert read_json(json.dumps(["[" * 5000, "{" * 5000]))


def test_a_text_beyond_the_size_limit_is_refused() -> None:
    assert read_json(b"1".rjust(100), max_bytes=100) == 1
    assert fault(read_json, b"1".rjust(101), max_bytes=100) == "too_large"
    assert fault(read_json, b" " * (untrusted.MAX_BYTES + 1)) == "too_large"
    assert read_yaml(b"a" * untrusted.MAX_YAML_BYTES)
    assert fault(read_yaml, b"a" * (untrusted.MAX_YAML_BYTES + 1)) == "too_large"


@pytest.mark.parametrize(
    ("content", "code", "loc"),
    [
        (b'{"a": [1, NaN]}', "not_finite", ("a", 1)),
        (b'{"a": -Infinity}', "not_finite", ("a",)),
        (b'{"a": {"b": 1e400}}', "not_finite", ("a", "b")),
        (b'{"a": "\\ud800"}', "not_text", ("a",)),
        (b'{"a": {"\\udfff": 1}}', "not_text", ("a",)),
        (b'{"a": {"\\udfff": NaN}}', None, None),
        (b'{"a": 1, "a": 1}', "repeated_key", ()),
        (b'[{"a": {"b": 1, "b": 2}}]', "repeated_key", ()),
        (b'{"a": 1, "\\u0061": 2}', "repeated_key", ()),
        (b"1" * 301, "too_many_digits", ()),
        (b"\xff", "not_text", ()),
        ("ä".encode("utf-16"), "not_text", ()),
        (b"\xed\xa0\x80", "not_text", ()),
        (b"", "not_json", ()),
        (b"{} {}", "not_json", ()),
    ],
)
def test_invalid_json_is_refused_at_its_location(content: bytes, code: str | None, loc: Any) -> None:
    with pytest.raises(Unreadable) as caught:
        read_json(content)
    repr((caught.value.loc, caught.value.message)).encode()
    if code is not None:
        assert (caught.value.code, caught.value.loc) == (code, loc)


@pytest.mark.parametrize(
    "content", [b"1" * 300, b"-" + b"1" * 299, b'"\\ud83d\\ude00"', b'"\\\\ud800"', b"1e308", b"null"]
)
def test_json_at_the_limits_is_read(content: bytes) -> None:
    assert read_json(content) == json.loads(content)


def test_decoded_text_is_checked_too() -> None:
    assert fault(read_json, '"\ud800"') == "not_text"
    assert read_json("\ufeff1") == 1


def test_with_repeated_keys_allowed_the_last_value_counts() -> None:
    assert read_json(b'{"a": 1, "a": 2}', repeated_keys=True) == {"a": 2}


def test_the_error_for_anything_but_an_object_names_the_file() -> None:
    assert read_json_object(b'{"a": 1}') == {"a": 1}
    with pytest.raises(Unreadable, match=r"config\.json is not a JSON object") as caught:
        read_json_object(b"[1]", named="config.json")
    assert caught.value.code == "not_an_object"


@pytest.mark.parametrize("content", [b"a: .nan", b"a: .inf", b"a: -.inf"])
def test_yaml_with_infinite_numbers_is_refused(content: bytes) -> None:
    assert fault(read_yaml, content) == "not_finite"


@pytest.mark.parametrize("content", [b'a: "\\UFFFFFFFF"', b'a: "\\U00110000"'])
def test_yaml_with_a_character_that_does_not_exist_is_refused(content: bytes) -> None:
    assert fault(read_yaml, content) == "not_yaml"


@pytest.mark.parametrize("content", [b'a: "\\uD800"', b'"\\uD800": 1'])
def test_yaml_with_half_a_surrogate_pair_is_refused(content: bytes) -> None:
    assert fault(read_yaml, content) == "not_text"


@pytest.mark.parametrize("text", ["0", "7", "200"])
def test_a_whole_number_is_read(text: str) -> None:
    assert read_number(text, least=0, most=200) == int(text)


@pytest.mark.parametrize(
    "text",
    ["", "201", "-1", "+1", "1.0", "1e2", " 1", "1 ", "1_0", "0x1", "00", "01", "٣", "²", "0" * 5000, "9" * 5000],
)
def test_anything_but_a_whole_number_within_bounds_is_refused(text: str) -> None:
    assert fault(read_number, text, least=0, most=200) == "not_a_number"
    assert fault(read_number, "0", least=1, most=200) == "not_a_number"


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"x" * 10)
    assert read_file(path, max_bytes=10) == b"x" * 10
    with pytest.raises(Unreadable, match=r"x\.json has more than 9 bytes"):
        read_file(path, max_bytes=9)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")


def test_a_pipe_and_a_device_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert fault(read_file, tmp_path / "config.json") == "not_a_file"
    assert fault(read_file, Path("/dev/zero")) == "not_a_file"
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)
