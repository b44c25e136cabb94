"""Flags of turns that say whether the model learns them.

OpenAI calls this `weight`, axolotl `train` or `training`, verl `loss_mask`, ms-swift `loss`.
"""

from __future__ import annotations

from gemtune.datasets.conversation import Role
from gemtune.datasets.reading.fields import Fields

NAMES = ("weight", "train", "training", "loss_mask", "loss")


def read_flag(fields: Fields, role: Role) -> bool | None:
    """Return whether a turn is to be learned; None if it does not say.

    Raises BadRow for a fraction, for flags that disagree, and if a turn that is not the assistant's is to be learned.
    """
    if not (present := fields.present(NAMES)):
        return None
    flags = {name: _flag(fields, name) for name in present}
    if len({*flags.values()}) > 1:
        raise fields.bad(f"{' and '.join(flags)} disagree")
    flag = next(iter(flags.values()))
    if role == "assistant":
        return flag
    if flag and set(flags) != {"weight"}:  # weight: 1 is what tools write that give every turn a weight
        raise fields.bad(f"{next(iter(flags))} says to learn a turn of the {role}; only the assistant's are learned")
    return None


def _flag(fields: Fields, name: str) -> bool:
    value = fields.take(name)
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise fields.bad(f"{name} is {str(value)[:20]!r}; a turn is learned (1) or not (0), nothing in between")
