"""Runs a workflow that was read: one step after the other, with its retries and its handlers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gemtune.local_server.workflow_engine.errors import WorkflowError, WorkflowFailed, language_error
from gemtune.local_server.workflow_engine.expressions import Variables
from gemtune.local_server.workflow_engine.functions import PREDICATES
from gemtune.local_server.workflow_engine.syntax import Assign, Call, Next, Retry, Return, Step, Switch, Try, Workflow

# Google's limit of steps in one execution.
MAX_STEPS = 100_000

HostCall = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class _Returned:
    value: Any


def execute(
    workflow: Workflow,
    argument: object,
    *,
    calls: Mapping[str, HostCall],
    environment: Mapping[str, str],
    sleep: Callable[[float], None],
) -> object:
    """Run `main` with the argument and return what it returns.

    `calls` are the functions of the host by name; they raise WorkflowError for errors that the workflow may catch, and
    what else they raise goes through. `sleep` gets seconds. Raises WorkflowFailed for an error that nothing caught.
    """
    main = workflow.subworkflows["main"]
    variables = dict.fromkeys(main.params, argument)
    try:
        return _Run(workflow, calls, environment, sleep).subworkflow("main", variables)
    except WorkflowError as error:
        raise WorkflowFailed(error.error) from error


@dataclass(slots=True)
class _Run:
    workflow: Workflow
    calls: Mapping[str, HostCall]
    environment: Mapping[str, str]
    sleep: Callable[[float], None]
    steps_done: int = field(default=0)

    def subworkflow(self, name: str, variables: Variables) -> Any:
        ended = self._steps(self.workflow.subworkflows[name].steps, variables)
        return ended.value if ended is not None else None

    def _steps(self, steps: Sequence[Step], variables: Variables) -> _Returned | None:
        """Run steps from the first on; None when the last one was left behind."""
        at = 0
        while at < len(steps):
            self.steps_done += 1
            if self.steps_done > MAX_STEPS:
                raise language_error("ResourceLimitError", f"more than {MAX_STEPS} steps")
            step = steps[at]
            outcome = self._action(step, variables)
            if isinstance(outcome, _Returned):
                return outcome
            target = outcome.step if isinstance(outcome, Next) else step.next
            if target == "end":
                return _Returned(None)
            at = at + 1 if target is None else next(i for i, other in enumerate(steps) if other.name == target)
        return None

    def _action(self, step: Step, variables: Variables) -> _Returned | Next | None:
        scope = (variables, self.environment)
        match step.action:
            case Assign(values):
                for name, value in values:
                    variables[name] = value(scope)
            case Call() as call:
                self._call(call, variables)
            case Return(value):
                return _Returned(value(scope))
            case Switch(branches):
                for condition, then in branches:
                    if self._holds(condition(scope)):
                        return _Returned(then.value(scope)) if isinstance(then, Return) else then
            case Try() as attempt:
                return self._try(attempt, variables)
        return None

    def _holds(self, condition: Any) -> bool:
        if not isinstance(condition, bool):
            raise language_error("TypeError", "a condition is a boolean")
        return condition

    def _call(self, call: Call, variables: Variables) -> None:
        scope = (variables, self.environment)
        args = {name: value(scope) for name, value in call.args.items()}
        result: Any = None
        if call.target == "sys.sleep":
            self.sleep(float(args["seconds"]))
        elif call.target in self.calls:
            result = self.calls[call.target](args)
        else:
            result = self.subworkflow(call.target, args)
        if call.result is not None:
            variables[call.result] = result

    def _try(self, attempt: Try, variables: Variables) -> _Returned | Next | None:
        try:
            self._with_retries(attempt.body, attempt.retry, variables)
        except WorkflowError as error:
            if attempt.handler is None or attempt.caught_as is None:
                raise
            # The caught error is the handler's own:
            # https://cloud.google.com/workflows/docs/reference/syntax/catching-errors
            inner = _Handler(variables, attempt.caught_as, error.error)
            return self._steps(attempt.handler, inner)
        return None

    def _with_retries(self, call: Call, retry: Retry | None, variables: Variables) -> None:
        retries = 0
        delay = retry.initial_delay if retry else 0.0
        while True:
            try:
                self._call(call, variables)
                return
            except WorkflowError as error:
                if retry is None or retries >= retry.max_retries or not PREDICATES[retry.predicate](error.error):
                    raise
            retries += 1
            self.sleep(delay)
            delay = min(retry.max_delay, delay * retry.multiplier)


class _Handler(dict[str, Any]):
    """The variables of an except block: those around it, which it may change, and the error, which stays inside."""

    def __init__(self, around: Variables, name: str, error: Mapping[str, Any]):
        super().__init__(around)
        self._around, self._name = around, name
        super().__setitem__(name, dict(error))

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        if name != self._name:
            self._around[name] = value
