"""Table of finished steps, from which the speed of later ones is estimated."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pydantic import RootModel, ValidationError

from gemtune.machines import throughput
from gemtune.machines.throughput import OBSERVATIONS_KEPT, Observation, Speed
from gemtune.ports import SharedDocuments
from gemtune.untrusted.damaged import fields_of, readable_in

log = logging.getLogger(__name__)

PREFIX = "throughput/"
# Kinds of steps that a machine's document keeps; the one that was measured first goes first.
KINDS_KEPT = 200


class _Table(RootModel[dict[str, tuple[Observation, ...]]]):
    """Finished steps of one machine, by kind.

    The kind that was measured last is at the end.
    """


@dataclass(frozen=True, slots=True)
class MeasuredSpeeds:
    """The table, with one document per kind of machine."""

    documents: SharedDocuments

    def speed(self, machine: str, key: str, prior: Speed) -> Speed:
        """Return the speed of a kind of step; `prior` if none was measured."""
        name = PREFIX + machine
        observations = _read(self.documents.read(name), name).root.get(key, ())
        return throughput.fit(observations, prior)

    def record(self, machine: str, key: str, observation: Observation) -> None:
        """Add a finished step."""

        def change(body: str | None) -> str:
            kinds = dict(_read(body, PREFIX + machine).root)
            kinds[key] = (*kinds.pop(key, ()), observation)[-OBSERVATIONS_KEPT:]
            return _Table(dict(list(kinds.items())[-KINDS_KEPT:])).model_dump_json()

        self.documents.update(PREFIX + machine, change)


def _read(body: str | None, name: str) -> _Table:
    """Return a machine's table, or what can be read of a damaged one.

    Estimates must not hold up jobs. The next finished step replaces the document. name: of the document.
    """
    if body is None:
        return _Table({})
    try:
        return _Table.model_validate_json(body)
    except ValidationError:
        kinds = {key: tuple(readable_in(Observation, listed)) for key, listed in fields_of(body).items()}
        log.error("%s is damaged: %d finished steps can be read", name, sum(map(len, kinds.values())))
        return _Table(kinds)
