"""Names of who says a message, which no chat template of Gemma shows.

They are counted as not read if they tell nothing that the texts do not: everyone of a role has the same name, and the
assistant does not call the user by it. Any other row is refused, since the model would not know who speaks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from gemtune.datasets.conversation import Role, Turn, content_texts
from gemtune.datasets.reading.fields import Fields, Reading, shown
from gemtune.datasets.refusal import BadRow


def leave_name(fields: Fields, role: Role) -> None:
    """Count the name in a message of a role, if it has one. Raises BadRow."""
    name = fields.peek("name")
    if name in (None, "") or role == "tool":
        return
    if not isinstance(name, str):
        raise fields.bad("name is not a text")
    fields.reading.names.setdefault(role, {})[name] = fields.path_of("name")
    fields.leave("name")


def check_names(reading: Reading, turns: Iterable[Turn]) -> None:
    """Raise BadRow if the names that were left tell something.

    turns: all of the row.
    """
    for role, names in reading.names.items():
        if len(names) > 1:
            several = ", ".join(shown(name) for name in names)
            raise BadRow(f"several names of the {role} ({several}): {_what_to_do(*names.values())}")
    for name, path in reading.names.get("user", {}).items():
        called = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
        if any(
            called.search(text) for turn in turns if turn.role == "assistant" for text in content_texts(turn.content)
        ):
            raise BadRow(f"the assistant says the user's name {shown(name)}: {_what_to_do(path)}")


def _what_to_do(path: str, *_: str) -> str:
    return (
        "no chat template of Gemma shows names: write them into the texts; to ignore them, add "
        f"{{{shown(path)}: null}} to dataset_columns"
    )
