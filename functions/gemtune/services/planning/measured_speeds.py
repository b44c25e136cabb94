"""Table of finished steps, from which the speed of later ones is estimated."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import RootModel

from gemtune.machines import throughput
from gemtune.machines.throughput import OBSERVATIONS_KEPT, Observation, Speed
from gemtune.ports import SharedDocuments

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
        observations = _read(self.documents.read(PREFIX + machine)).root.get(key, ())
        return throughput.fit(observations, prior)

    def record(self, machine: str, key: str, observation: Observation) -> None:
        """Add a finished step."""

        def change(body: str | None) -> str:
            kinds = dict(_read(body).root)
            kinds[key] = (*kinds.pop(key, ()), observation)[-OBSERVATIONS_KEPT:]
            return _Table(dict(list(kinds.items())[-KINDS_KEPT:])).model_dump_json()

        self.documents.update(PREFIX + machine, change)


def _read(body: str | None) -> _Table:
    return _Table({}) if body is None else _Table.model_validate_json(body)
