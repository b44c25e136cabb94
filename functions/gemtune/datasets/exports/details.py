"""Details of an exported conversation, of which programs add new ones."""

from __future__ import annotations

from collections.abc import Collection

from gemtune.datasets.reading.fields import REPEATING, UNSUPPORTED, Fields

# Fields of a row that mean something to other formats.
_WITH_A_MEANING = REPEATING | {
    *UNSUPPORTED,
    *("messages", "conversations", "conversation", "contents", "text", "system", "system_prompt", "systemInstruction"),
    *("tools", "functions", "chat_template_kwargs", "enable_thinking", "weight"),
}


def leave_details(fields: Fields, *, harmless: Collection[str] = ()) -> None:
    """Count all fields that were not taken, but for those with a meaning.

    harmless: names that mean nothing in this export.
    """
    for name in sorted(fields.names() - (_WITH_A_MEANING - {*harmless})):
        fields.leave(name)
