"""The workflow language, and the errors that it raises at load time.

Reference: https://cloud.google.com/workflows/docs/reference/syntax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemtune.local_server.workflow_engine.errors import WorkflowError, WorkflowFailed, WorkflowSyntaxError
from gemtune.local_server.workflow_engine.expressions import compile_expression, parse
from gemtune.local_server.workflow_engine.interpreter import execute
from gemtune.local_server.workflow_engine.reader import load


def value_of(text: str, **variables: Any) -> Any:
    return compile_expression(parse(text))((variables, {"NAME": "value"}))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 // 2 + 7 % 2", 4),
        ("7 / 2", 3.5),
        ("-2 - -3", 1),
        ("10 - 3 - 2", 5),
        ("1 + 1 == 2 and not 1 > 2", True),
        ("not true or true", True),
        ("true or 1", True),
        ("false and 1", False),
        ('"a" + "b"', "ab"),
        ("'it\\'s'", "it's"),
        ('"a\\nb"', "a\nb"),
        ("1 in items", True),
        ('"k" in map', True),
        ("items[1]", 2),
        ('map.k["deep"]', "x"),
        ("map.k.deep", "x"),
        ("null == null", True),
        ("true == 1", False),
        ("1 == 1.0", True),
        ('"a" < "b"', True),
        ("default(null, 3)", 3),
        ('default(map.get(map, "none"), 3)', 3),
        ('sys.get_env("NAME")', "value"),
        ('sys.get_env("NONE", "d")', "d"),
        ("string(4.5) + string(true)", "4.5true"),
        ("len(items)", 3),
        ("json.encode_to_string(map)", '{"k": {"deep": "x"}}'),
        ("1e3", 1000.0),
        ("android", 5),
        ("index", 6),
    ],
)
def test_an_expression_evaluates_to_its_value(text: str, value: Any) -> None:
    result = value_of(text, items=[1, 2, 3], map={"k": {"deep": "x"}}, android=5, index=6)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("1 + 'a'", "TypeError"),
        ("'a' * 2", "TypeError"),
        ("true + 1", "TypeError"),
        ("1 and true", "TypeError"),
        ("not 1", "TypeError"),
        ("1 < 'a'", "TypeError"),
        ("1 / 0", "ZeroDivisionError"),
        ("items[9]", "IndexError"),
        ("items[-1]", "IndexError"),
        ("map.none", "KeyError"),
        ("items.k", "TypeError"),
        ("1 in 2", "TypeError"),
        ("missing", "KeyError"),
        ("sys.get_env('NONE')", "KeyError"),
        ("string(null)", "TypeError"),
        ("null + 'a'", "TypeError"),
        ("len(3)", "TypeError"),
    ],
)
def test_values_are_not_converted_and_every_error_has_its_tag(text: str, tag: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        value_of(text, items=[1], map={})
    assert caught.value.error["tags"] == [tag]


NUMBERS = st.integers(0, 99).map(str)
ARITHMETIC = st.recursive(
    NUMBERS,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(" ".join)
        | inner.map("({})".format)
        | inner.map("-({})".format)
    ),
    max_leaves=12,
)


@given(ARITHMETIC, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), ARITHMETIC)
def test_arithmetic_agrees_with_python(left: str, sign: str, right: str) -> None:
    assert value_of(left) == eval(left)
    assert value_of(f"{left} {sign} {right} or not {right} {sign} {left}") is eval(
        f"{left} {sign} {right} or not {right} {sign} {left}"
    )


def workflow(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "w.yaml"
    path.write_text(text)
    return path


def run(tmp_path: Path, steps: str, post: Callable[[Mapping[str, Any]], Any] = lambda args: args["url"]) -> Any:
    slept: list[float] = []
    text = "main:\n  params: [input]\n  steps:\n" + steps
    loaded = load(workflow(tmp_path, text))
    return execute(loaded, {"n": 1}, calls={"http.post": post}, environment={}, sleep=slept.append)


def test_steps_assign_switch_and_jump(tmp_path: Path) -> None:
    steps = """
    - begin: {assign: [{n: "${input.n}"}, {seen: 0}]}
    - again: {assign: [{n: "${n + 1}"}, {seen: "${seen + n}"}]}
    - check:
        switch:
          - {condition: "${n < 5}", next: again}
          - {condition: "${n == 5}", next: leave}
    - never: {return: "not reached"}
    - leave: {return: {n: "${n}", seen: ["${seen}"], text: plain}}
"""
    assert run(tmp_path, steps) == {"n": 5, "seen": [14], "text": "plain"}


def test_a_switch_without_a_match_continues_and_end_ends_the_workflow(tmp_path: Path) -> None:
    steps = """
    - check: {switch: [{condition: "${input.n > 1}", next: end}]}
    - set: {assign: [{x: 1}], next: last}
    - between: {return: wrong}
    - last: {assign: [{x: 2}], next: end}
    - after: {return: wrong}
"""
    assert run(tmp_path, steps) is None


def test_variables_set_in_an_except_block_stay(tmp_path: Path) -> None:
    def fails(args: Mapping[str, Any]) -> Any:
        raise WorkflowError({"message": "boom", "code": 418, "tags": ["HttpError"]})

    steps = """
    - begin: {assign: [{code: null}]}
    - try:
        try: {call: http.post, args: {url: u}, result: r}
        except:
          as: e
          steps:
            - keep: {assign: [{code: "${e.code}"}]}
    - leave: {return: "${code}"}
"""
    assert run(tmp_path, steps, fails) == 418


def test_an_uncaught_error_fails_the_execution_with_its_map(tmp_path: Path) -> None:
    with pytest.raises(WorkflowFailed) as caught:
        run(tmp_path, '    - a: {assign: [{x: "${input.none}"}]}\n')
    assert caught.value.error["tags"] == ["KeyError"]


def test_an_execution_has_a_limited_number_of_steps(tmp_path: Path) -> None:
    with pytest.raises(WorkflowFailed) as caught:
        run(tmp_path, "    - a: {assign: [{x: 1}], next: a}\n")
    assert caught.value.error["tags"] == ["ResourceLimitError"]


@pytest.mark.parametrize(
    ("line", "steps"),
    [
        (4, "    - a: {assign: [{x: 1}], call: http.post}\n"),
        (4, "    - a: {asign: [{x: 1}]}\n"),
        (4, "    - a: {next: nowhere}\n"),
        (4, "    - a: {}\n"),
        (5, "    - a: {assign: [{x: 1}]}\n    - a: {return: 1}\n"),
        (4, "    - a: {call: http.get, args: {url: u}}\n"),
        (4, "    - a: {call: main}\n"),
        (4, "    - a: {call: http.post, args: {ulr: u}}\n"),
        (4, "    - a: {call: http.post}\n"),
        (5, "    - a:\n        return: ${1 +}\n"),
        (5, "    - a:\n        return: ${unknown}\n"),
        (5, "    - a:\n        return: ${sys.now()}\n"),
        (5, "    - a:\n        return: ${len(1, 2)}\n"),
        (5, "    - a:\n        return: so ${input}\n"),
        (5, "    - a:\n        parallel: {}\n"),
        (5, "    - a:\n        for: {value: v, in: [1], steps: []}\n"),
        (4, "    - a: {try: {call: http.post, args: {url: u}}}\n"),
        (6, "    - a:\n        try: {call: http.post, args: {url: u}}\n        retry: ${http.default_retry}\n"),
        (4, '    - a: {switch: [{condition: "${true}"}]}\n'),
        (4, "    - 'a b': {return: 1}\n"),
    ],
)
def test_an_unknown_element_is_an_error_with_its_line(tmp_path: Path, line: int, steps: str) -> None:
    with pytest.raises(WorkflowSyntaxError) as caught:
        load(workflow(tmp_path, "main:\n  params: [input]\n  steps:\n" + steps))
    assert abs(caught.value.line - line) <= 1, str(caught.value)
    assert str(tmp_path / "w.yaml") in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "main: {}", "other: {steps: []}", "main: {steps: []}"])
def test_a_file_without_a_workflow_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(WorkflowSyntaxError):
        load(workflow(tmp_path, text))


def test_a_subworkflow_has_its_own_variables(tmp_path: Path) -> None:
    text = """
main:
  steps:
    - a: {assign: [{x: 1}]}
    - b: {call: other, args: {x: 5}, result: y}
    - c: {return: ["${x}", "${y}"]}
other:
  params: [x]
  steps:
    - a: {assign: [{x: "${x + 1}"}]}
    - b: {return: "${x}"}
"""
    assert execute(load(workflow(tmp_path, text)), None, calls={}, environment={}, sleep=print) == [1, 6]
