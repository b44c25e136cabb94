"""Fields of a row, each of which is taken, ignored on purpose, or refused.

Readers take what they understand. `close` then refuses the row for any other field with a value, unless such a field
is known to say nothing about what the model should learn; those are counted by name.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

from gemtune.datasets.conversation import Role
from gemtune.datasets.refusal import BadRow
from gemtune.datasets.row_options import ReadOptions

# Fields that cannot change what is learned: where a row comes from, what it is about, what others measured on it.
_HARMLESS = """
    id _id row_id uuid uid guid idx index key hash sha256 md5 chat_id conversation_id conversation_hash session_id
    message_id prompt_id question_id sample_id task_id user_id thread_id parent_id parent_message_id source sources src
    origin provenance dataset dataset_name data_source subset split config file filename path url link title author
    authors license licence copyright version revision metadata meta extra extra_info info comment comments note notes
    annotator annotators date time timestamp created created_at updated_at create_time language lang locale category
    categories subcategory subtopic topic topics subject domain subdomain task tasks task_name task_type tag tags
    keywords difficulty level quality score scores rating ratings reward rewards num_turns num_tokens n_tokens
    token_count tokens length text_length word_count usage finish_reason stop_reason model model_name engine generator
    temperature top_p
    max_tokens parallel_tool_calls object avg_rating toxicity redacted moderation openai_moderation detoxify hashed_ip
    header country state turn completion_tokens prompt_tokens logprobs system_fingerprint __index_level_0__
    skip_prompt_formatting full_topic views avatarUrl avatar_url toxic detoxify_moderation schemaVersion
    annotation_id lead_time
"""
# Numbers of rows that pandas and R write in front of a table: a column without a name, and pandas's name for it.
_ROW_NUMBERS = ("column 1", "Unnamed: 0", "Unnamed: 0.1", "Unnamed: 0.2", "Unnamed: 0.1.1")
HARMLESS = frozenset((*_HARMLESS.split(), *_ROW_NUMBERS))
# Columns for what a user or the assistant says, which some datasets have beside their messages.
REPEATING = frozenset(
    ("prompt", "problem", "question", "query", "instruction", "input", "completion", "response", "output", "solution")
)
# Unknown fields of a row that a message names.
MOST_NAMED = 8
# Fields whose meaning is known, but which nothing here can honour: what to do about each.
UNSUPPORTED: Mapping[str, str] = {
    "label": "it marks good and bad answers: use method RL with {algorithm: kto}, or remove the rows with false",
    "chosen": "this is a row for RL: use method RL with DPO",
    "rejected": "this is a row for RL: use method RL with DPO",
    "completions": "these are answers with scores: use method RL with DPO",
    "answer": "it is what GRPO compares with: use method RL, or call it completion",
    "role": "such a row is one message: write all messages of a conversation into one row, as messages",
    "name": "no chat template of Gemma shows names: write it into the text",
    "context": "write it into the prompt",
    "train_detail": "training on a part of a turn is not possible: split the turn",
    "logit_bias": "it cannot be learned",
    "response_format": "write the format that you expect into the prompt",
    "audio": "audio needs modality audio, and rows of turns",
    "audios": "audio needs modality audio, and rows of turns",
    "video": "videos cannot be trained on",
    "videos": "videos cannot be trained on",
    "refusal": "write the refusal into content",
    "history": "write the earlier turns into messages",
    "images": "pictures need modality vision, and rows of turns",
    "image": "pictures need modality vision, and rows of turns",
}


class Reading:
    """One row being read.

    ignored: fields to ignore, by their names for `dataset_columns`. unread: names of the fields that were not read, in
    order and without repetition. names: by role, the names of who says its messages, and the fields that have them.
    """

    def __init__(self, options: ReadOptions):
        self.options, self.ignored = options, options.ignored
        self.unread: dict[str, None] = {}
        self.names: dict[Role, dict[str, str]] = {}


class Fields:
    """Fields of a row, or of an object in it, that are taken one by one.

    path: the column that the object is in, for `dataset_columns`. place: the object in words, for messages, such as
    `turn 3`; empty for the row itself. Nulls are absent fields: in Parquet every row has every field. So is NaN in a
    column of the row, which libraries for tables write where a number is missing.
    """

    def __init__(self, values: Mapping[str, Any], reading: Reading, *, path: str = "", place: str = ""):
        self.reading, self.path, self.place = reading, path, place
        self._left: dict[str, Any] = {}
        self._asked: set[str] = set()
        for name, value in values.items():
            if value is None or (not path and is_missing(value)):
                continue
            if reading.ignored and self.path_of(name) in reading.ignored:
                reading.unread[shown(self.path_of(name))] = None
            else:
                self._left[name] = value

    def __contains__(self, name: str) -> bool:
        """Return whether a field has a value that was not taken yet."""
        self._asked.add(name)
        return name in self._left

    def present(self, names: Sequence[str]) -> list[str]:
        """Return those of several fields that have a value not taken yet."""
        self._asked.update(names)
        return [name for name in names if name in self._left]

    def take(self, name: str) -> Any:
        """Return the value of a field, or None if it is absent.

        Raises BadRow for NaN and infinite numbers.
        """
        self._asked.add(name)
        value = self._left.pop(name, None)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.bad(f"{shown(name)} is {value}: write a finite number, or null")
        return value

    def names(self) -> frozenset[str]:
        """Return the names of the fields that were not taken yet."""
        return frozenset(self._left)

    def peek(self, name: str) -> Any:
        """Return the value of a field and leave it to be taken."""
        return self._left.get(name)

    def take_text(self, name: str) -> str | None:
        """Return a text, or None if the field is absent. Raises BadRow."""
        value = self.take(name)
        value = value if self.path else cell_text(value)
        if value is not None and not isinstance(value, str):
            raise self.bad(f"{name} is {kind_of(value)}not a text")
        return None if value is None else unicode_text(value)

    def take_first(self, *names: str) -> Any:
        """Return the value of the one of several fields that has one, or None.

        Raises BadRow if two of them have one.
        """
        return self.take(self.only(*names))

    def only(self, *names: str) -> str:
        """Return the name of the one of several fields that has a value.

        It is the first name if none has one. Raises BadRow if two of them have one.
        """
        present = self.present(names)
        if len(present) > 1:
            ignored = ", ".join(f"{{{self.path_of(name)}: null}}" for name in present[1:])
            raise self.bad(
                f"both {present[0]} and {present[1]} are given: keep one, or ignore the other in dataset_columns, "
                f"such as {ignored}"
            )
        return (present or names)[0]

    def within(self, value: Any, name: str, place: str = "") -> Fields:
        """Return the fields of an object in the field `name`.

        Raises BadRow if it is not an object.
        """
        where = f"{self.place} {place}" if self.place and place else self.place or place
        if not isinstance(value, (dict, Mapping)):
            raise BadRow(f"{where or name} is not an object")
        return Fields(value, self.reading, path=self.path_of(name), place=where)

    def close(self, *, harmless: Collection[str] = HARMLESS) -> None:
        """Account for the fields that were not taken.

        Raises BadRow for those that may matter.
        """
        unknown = []
        for name, value in self._left.items():
            if name in harmless:
                self.reading.unread[shown(self.path_of(name))] = None
            elif value not in ("", [], {}):
                unknown.append(name)
        if unknown:
            raise self.bad(self._unknown(unknown))

    def leave(self, name: str) -> None:
        """Count a field as one that cannot change what is learned."""
        if self._left.pop(name, None) is not None:
            self.reading.unread[shown(self.path_of(name))] = None

    def leave_repeated(self, texts: Collection[str]) -> None:
        """Count columns that repeat one of these texts word for word.

        NuminaMath's rows have the problem and its solution in columns beside their messages.
        """
        for name in sorted(REPEATING & self._left.keys()):
            if isinstance(value := self._left[name], str) and value in texts:
                self.leave(name)

    def path_of(self, name: str) -> str:
        """Return a field's name for `dataset_columns`."""
        return f"{self.path}.{name}" if self.path else name

    def bad(self, reason: str) -> BadRow:
        """Return a refusal that says where in the row it is."""
        return BadRow(f"{self.place}: {reason}" if self.place else reason)

    def _unknown(self, names: Sequence[str]) -> str:
        """Return why a row with these fields is refused, and what to do."""
        pairs = ", ".join(f"{shown(self.path_of(name))}: null" for name in names[:MOST_NAMED])
        ignore = f"add {{{pairs}}} to dataset_columns"
        unsupported = [name for name in names if name in UNSUPPORTED]
        if unsupported:
            reasons = "; ".join(f"the field {name} is not read: {UNSUPPORTED[name]}" for name in unsupported)
            return f"{reasons}; to ignore {'it' if len(names) == 1 else 'all unknown fields'}, {ignore}"
        if len(names) > 1:
            named = ", ".join(shown(name) for name in names[:MOST_NAMED])
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            return (
                f"the fields {named}{more} are unknown: say in dataset_columns what they are; to ignore them, {ignore}"
            )
        near = difflib.get_close_matches(names[0], sorted(self._asked), n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        return (
            f"the field {shown(names[0])} is unknown{meant}: say in dataset_columns what it is; to ignore it, {ignore}"
        )


def cell_text(value: Any) -> Any:
    """Return a number of a column as text, and any other value as it is.

    A file of JSON or Parquet has the number 5 where one of CSV has a text.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        return value
    return str(value)


def is_missing(value: Any) -> bool:
    """Return whether a column has no value in a row: null or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def kind_of(value: Any) -> str:
    """Return words for a value in whose place a text is expected."""
    match value:
        case bytes():
            return "bytes that are not UTF-8, "
        case bool():
            return "true or false, "
    return ""


def shown(name: object) -> str:
    """Return the name of a field for messages.

    It can be broken Unicode, a report cannot.
    """
    return str(name)[:60].encode(errors="backslashreplace").decode()


def names_in(row: Mapping[str, Any]) -> str:
    """Return the names of a row's fields with a value, for messages."""
    names = sorted(shown(name) for name, value in row.items() if value is not None)
    named = ", ".join(names[:MOST_NAMED]) or "nothing"
    return named if len(names) <= MOST_NAMED else f"{named} and {len(names) - MOST_NAMED} more"


def unicode_text(text: str) -> str:
    """Return a text that can be encoded. Raises BadRow for any other."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow("broken Unicode (half of a surrogate pair)") from None
    return text
