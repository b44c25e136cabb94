"""Interpreter of loaded workflows, with retries and error handlers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gemtune.local_server.workflow_engine.errors import WorkflowError, WorkflowFailed, language_error
from gemtune.local_server.workflow_engine.expressions import Variables
from gemtune.local_server.workflow_engine.functions import PREDICATES
from gemtune.local_server.workflow_engine.syntax import Assign, Call, Next, Retry, Return, Step, Switch, Try, Workflow

# Google's limit on the number of steps in one execution.
MAX_STEPS = 100_000

HostCall = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class _Returned:
    """Outcome of a step that ends its subworkflow with a value."""

    value: Any


def execute(
    workflow: Workflow,
    argument: object,
    *,
    calls: Mapping[str, HostCall],
    environment: Mapping[str, str],
    sleep: Callable[[float], None],
) -> object:
    """Run `main` with an argument and return its result.

    calls: functions that the host provides, such as `http.post`, by name. They raise WorkflowError for errors that the
    workflow can catch; other exceptions propagate.
    environment: variables that sys.get_env returns.
    sleep: called with seconds.

    Raises WorkflowFailed for an error that the workflow does not catch.
    """
    main = workflow.subworkflows["main"]
    variables = dict.fromkeys(main.params, argument)
    try:
        return _Run(workflow, calls, environment, sleep).subworkflow("main", variables)
    except WorkflowError as error:
        raise WorkflowFailed(error.error) from error


@dataclass(slots=True)
class _Run:
    """State of one execution."""

    workflow: Workflow
    calls: Mapping[str, HostCall]
    environment: Mapping[str, str]
    sleep: Callable[[float], None]
    steps_done: int = field(default=0)

    def subworkflow(self, name: str, variables: Variables) -> Any:
        """Run a subworkflow and return its result.

        `variables` holds its arguments.
        """
        outcome = self._steps(self.workflow.subworkflows[name].steps, variables)
        return outcome.value if outcome is not None else None

    def _steps(self, steps: Sequence[Step], variables: Variables) -> _Returned | None:
        """Run a list of steps.

        Returns None if it ends after the last step, without `return`.
        """
        index = 0
        while index < len(steps):
            self.steps_done += 1
            if self.steps_done > MAX_STEPS:
                raise language_error("ResourceLimitError", f"more than {MAX_STEPS} steps")
            step = steps[index]
            outcome = self._action(step, variables)
            if isinstance(outcome, _Returned):
                return outcome
            target = outcome.step if isinstance(outcome, Next) else step.next
            if target == "end":
                return _Returned(None)
            index = index + 1 if target is None else next(i for i, other in enumerate(steps) if other.name == target)
        return None

    def _action(self, step: Step, variables: Variables) -> _Returned | Next | None:
        """Run one step and return its outcome.

        That is a value that ends the subworkflow, a jump, or None to go on.
        """
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
            raise language_error("TypeError", "a condition must be a boolean")
        return condition

    def _call(self, call: Call, variables: Variables) -> None:
        """Call a host function or a subworkflow, and store its result."""
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
        """Run a try block: its call with retries, then perhaps its handler."""
        try:
            self._call_with_retries(attempt.body, attempt.retry, variables)
        except WorkflowError as error:
            if attempt.handler is None or attempt.caught_as is None:
                raise
            # The variable with the caught error is visible in the handler only:
            # https://cloud.google.com/workflows/docs/reference/syntax/catching-errors
            inner = _HandlerVariables(variables, attempt.caught_as, error.error)
            return self._steps(attempt.handler, inner)
        return None

    def _call_with_retries(self, call: Call, retry: Retry | None, variables: Variables) -> None:
        """Make a call; repeat it after errors as the retry policy says.

        Raises the last WorkflowError.
        """
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


class _HandlerVariables(dict[str, Any]):
    """Variables of an except block.

    The variables of the surrounding block are shared, so that assignments change them there too. The variable with the
    caught error exists in the except block only.
    """

    def __init__(self, outer: Variables, error_name: str, error: Mapping[str, Any]):
        super().__init__(outer)
        self._outer, self._error_name = outer, error_name
        super().__setitem__(error_name, dict(error))

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        if name != self._error_name:
            self._outer[name] = value
