"""Reader of workflow files; rejects unsupported syntax with file and line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from gemtune.local_server.workflow_engine import expressions
from gemtune.local_server.workflow_engine.errors import WorkflowSyntaxError
from gemtune.local_server.workflow_engine.expressions import Evaluate, Scope
from gemtune.local_server.workflow_engine.functions import PREDICATES
from gemtune.local_server.workflow_engine.syntax import (
    Assign,
    Call,
    Next,
    Retry,
    Return,
    Step,
    Subworkflow,
    Switch,
    Try,
    Workflow,
)

# Calls that the host provides: the names of their required and of their optional arguments.
CALLS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "http.post": (frozenset({"url"}), frozenset({"body", "headers", "auth", "timeout"})),
    "googleapis.run.v2.projects.locations.jobs.run": (frozenset({"name"}), frozenset({"body", "connector_params"})),
    "sys.sleep": (frozenset({"seconds"}), frozenset()),
}
_NAME = re.compile(r"^[a-zA-Z_]\w*$")


def load(path: Path) -> Workflow:
    """Load a workflow file. Raises WorkflowSyntaxError, OSError."""
    try:
        root = YAML(typ="rt", pure=True).load(path.read_text())
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise WorkflowSyntaxError(path, line, f"invalid YAML: {error.problem}") from None
    return _Reader(path).workflow(root)


class _Reader:
    """Reader of one file.

    It collects the variables of a subworkflow before it compiles the expressions in it, to find unknown ones.
    """

    def __init__(self, path: Path):
        self._path = path
        self._params: dict[str, list[str]] = {}
        self._variables: set[str] = set()

    def workflow(self, root: Any) -> Workflow:
        """Read the whole file.

        Raises WorkflowSyntaxError, like all methods below.
        """
        if not isinstance(root, CommentedMap) or "main" not in root:
            raise WorkflowSyntaxError(self._path, 1, "a workflow must be a map of subworkflows, one of them `main`")
        for name in root:
            body = self._map(root, name, required={"steps"}, allowed={"params"})
            self._params[name] = [str(param) for param in body.get("params", [])]
        if len(self._params["main"]) > 1:
            raise self._error(root["main"], "params", "main takes at most one argument")
        return Workflow({name: self._subworkflow(name, body) for name, body in root.items()})

    def _subworkflow(self, name: str, body: CommentedMap) -> Subworkflow:
        """Read one subworkflow."""
        self._variables = {*self._params[name], *_assigned_variables(body["steps"])}
        return Subworkflow(name, self._params[name], self._steps(body, "steps"))

    def _steps(self, parent: CommentedMap, key: str) -> Sequence[Step]:
        """Read the list of steps at a key."""
        entries = parent[key]
        if not isinstance(entries, CommentedSeq) or not entries:
            raise self._error(parent, key, "a list of steps is missing")
        names: list[str] = []
        for entry in entries:
            if not isinstance(entry, CommentedMap) or len(entry) != 1:
                raise self._error(parent, key, "a step must be a map of one name to its body")
            (name,) = entry
            if not _NAME.match(str(name)) or name in names:
                raise self._error(entry, name, f"{name!r} is not a valid name for a step, or is used twice")
            names.append(name)
        return [self._step(entry, name, [*names, "end"]) for entry in entries for name in entry]

    def _step(self, entry: CommentedMap, name: str, names: Sequence[str]) -> Step:
        """Read one step; `names` are the steps it can jump to."""
        actions = {"assign", "call", "switch", "try", "return"}
        body = self._map(entry, name, required=set(), allowed=actions | {"args", "result", "retry", "except", "next"})
        present = actions & set(body)
        if len(present) > 1 or (not present and "next" not in body):
            raise self._error(entry, name, f"step {name!r} needs exactly one of {', '.join(sorted(actions))}, or next")
        action = None
        if present:
            (kind,) = present
            own = {"call": {"args", "result"}, "try": {"retry", "except"}}.get(kind, set())
            self._map(entry, name, required={kind}, allowed=own | {"next"})
            action = self._action(kind, body, names)
        return Step(name, action, self._target(body, names) if "next" in body else None)

    def _action(self, kind: str, body: CommentedMap, names: Sequence[str]) -> Assign | Call | Switch | Try | Return:
        """Read the action of a step, by its keyword."""
        if kind == "assign":
            return self._assign(body)
        if kind == "call":
            return self._call(body)
        if kind == "switch":
            return self._switch(body, names)
        if kind == "try":
            return self._try(body)
        return Return(self._value(body, "return"))

    def _assign(self, body: CommentedMap) -> Assign:
        """Read an `assign` step."""
        values = []
        for entry in body["assign"]:
            if not isinstance(entry, CommentedMap) or len(entry) != 1:
                raise self._error(body, "assign", "an assignment must be a map of one variable to its value")
            (name,) = entry
            if not _NAME.match(str(name)):
                raise self._error(entry, name, f"{name!r} is not a valid variable name")
            values.append((str(name), self._value(entry, name)))
        return Assign(values)

    def _call(self, body: CommentedMap) -> Call:
        """Read a `call`, and check its target and the argument names."""
        target, args = str(body["call"]), body.get("args", CommentedMap())
        if target in CALLS:
            required, optional = CALLS[target]
        elif target in self._params and target != "main":
            required, optional = frozenset(self._params[target]), frozenset()
        else:
            raise self._error(body, "call", f"there is no {target!r} to call")
        if not isinstance(args, CommentedMap) or not required <= set(args) <= required | optional:
            takes = ", ".join(sorted(required | optional))
            raise self._error(body, "args" if "args" in body else "call", f"{target} takes the arguments {takes}")
        result = body.get("result")
        if result is not None and not _NAME.match(str(result)):
            raise self._error(body, "result", f"{result!r} is not a valid variable name")
        return Call(target, {name: self._value(args, name) for name in args}, result)

    def _switch(self, body: CommentedMap, names: Sequence[str]) -> Switch:
        """Read a `switch` step."""
        branches: list[tuple[Evaluate, Return | Next]] = []
        for index in range(len(body["switch"])):
            branch = self._map(body["switch"], index, required={"condition"}, allowed={"return", "next"})
            if len(branch) != 2:
                raise self._error(branch, "condition", "a branch needs a condition and one of return, next")
            then = Return(self._value(branch, "return")) if "return" in branch else Next(self._target(branch, names))
            branches.append((self._value(branch, "condition"), then))
        return Switch(branches)

    def _try(self, body: CommentedMap) -> Try:
        """Read a `try` step, whose body must be one call."""
        if "retry" not in body and "except" not in body:
            raise self._error(body, "try", "try needs retry or except")
        call = self._map(body, "try", required={"call"}, allowed={"args", "result"})
        caught_as, handler = None, None
        if "except" in body:
            caught = self._map(body, "except", required={"as", "steps"}, allowed=set())
            caught_as, handler = str(caught["as"]), self._steps(caught, "steps")
        return Try(self._call(call), self._retry(body), caught_as, handler)

    def _retry(self, body: CommentedMap) -> Retry | None:
        """Read a retry policy, or return None if the step has none."""
        if "retry" not in body:
            return None
        retry = self._map(body, "retry", required={"predicate", "max_retries", "backoff"}, allowed=set())
        delays = ("initial_delay", "max_delay", "multiplier")
        backoff = self._map(retry, "backoff", required=set(delays), allowed=set())
        predicate = str(retry["predicate"]).removeprefix("${").removesuffix("}").strip()
        if predicate not in PREDICATES:
            raise self._error(retry, "predicate", f"there is no predicate {predicate!r}")
        for numbers, key in [(retry, "max_retries"), *((backoff, key) for key in backoff)]:
            if not isinstance(numbers[key], int | float) or isinstance(numbers[key], bool):
                raise self._error(numbers, key, f"{key} must be a number")
        return Retry(predicate, retry["max_retries"], *(backoff[name] for name in delays))

    def _target(self, body: CommentedMap, names: Sequence[str]) -> str:
        """Read `next`: the name of a step in the same list, or `end`."""
        target = str(body["next"])
        if target not in names:
            raise self._error(body, "next", f"there is no step {target!r} here")
        return target

    def _value(self, parent: Any, key: Any) -> Evaluate:
        """Compile the value at a key.

        It is a literal, an expression, or a map or list of them.
        """
        value = parent[key]
        if isinstance(value, CommentedMap):
            items = {str(name): self._value(value, name) for name in value}
            return lambda scope: {name: item(scope) for name, item in items.items()}
        if isinstance(value, CommentedSeq):
            members = [self._value(value, index) for index in range(len(value))]
            return lambda scope: [member(scope) for member in members]
        if isinstance(value, str) and "${" in value:
            return self._expression(parent, key, value)
        plain = str(value) if isinstance(value, str) else value
        return lambda scope: plain

    def _expression(self, parent: Any, key: Any, text: str) -> Evaluate:
        """Compile an expression, which must be the whole text."""
        stripped = text.strip()
        if not (stripped.startswith("${") and stripped.endswith("}")):
            raise self._error(parent, key, "an expression must be the whole value")
        try:
            tree = expressions.parse(stripped[2:-1])
        except expressions.ExpressionError as error:
            raise self._error(parent, key, str(error)) from None
        for name in expressions.variables_of(tree):
            if name not in self._variables:
                raise self._error(parent, key, f"no step sets the variable {name!r}")
        evaluate = expressions.compile_expression(tree)

        def scoped(scope: Scope) -> Any:
            return evaluate(scope)

        return scoped

    def _map(self, parent: Any, key: Any, *, required: set[str], allowed: set[str]) -> CommentedMap:
        """Return the map at a key, checked for missing and unknown keys."""
        body = parent[key]
        if not isinstance(body, CommentedMap):
            raise self._error(parent, key, "a map is missing")
        for name in body:
            if name not in required | allowed:
                raise self._error(body, name, f"{name!r} is not supported here")
        for name in sorted(required - set(body)):
            raise self._error(parent, key, f"{name!r} is missing")
        return body

    def _error(self, parent: Any, key: Any, message: str) -> WorkflowSyntaxError:
        """Return an error with the line of a key in its parent."""
        line = parent.lc.line
        if key is not None and isinstance(parent, CommentedMap | CommentedSeq) and key in (parent.lc.data or {}):
            line = parent.lc.data[key][0]
        return WorkflowSyntaxError(self._path, line + 1, message)


def _assigned_variables(node: Any) -> set[str]:
    """Return the variables that the steps in a YAML node set."""
    variables: set[str] = set()
    if isinstance(node, CommentedSeq):
        for entry in node:
            variables |= _assigned_variables(entry)
    elif isinstance(node, CommentedMap):
        for key, value in node.items():
            if key == "assign" and isinstance(value, CommentedSeq):
                variables |= {str(name) for entry in value if isinstance(entry, CommentedMap) for name in entry}
            elif key in ("result", "as") and isinstance(value, str):
                variables.add(value)
            else:
                variables |= _assigned_variables(value)
    return variables
