"""Rows and prompts on which an export is compared with the trained model.

They are collected before training, and the same prepared data gives the same ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from gemtune.datasets.conversation import of_messages
from gemtune.datasets.refusal import BadRow, Refused
from gemtune.errors import StepError
from trainer.certificate.probes import PROBES
from trainer.conversation.chat_template import TemplateRefusal
from trainer.export.modelfile import Turns, turns_of
from trainer.rendering.abilities import Abilities
from trainer.rows.encoded import UNTRAINED
from trainer.rows.encoder import Encoder
from trainer.rows.prepared import AUDIO, COLUMNS, PICTURES, read_tokens

# Rows that are compared, rows that they are chosen from, and tokens per row.
ROWS, CANDIDATES, TOKENS = 64, 1024, 256
# A longer row keeps this many tokens before the first trained one.
CONTEXT_TOKENS = 160
# Compared positions per row, and of all rows: each one costs a product with the whole output head, several times.
ROW_POSITIONS, POSITIONS = 48, 768
# Compared positions per probe.
PROBE_POSITIONS = 12
# Prompts of rows whose tokens are compared.
ROW_PROMPTS = 16
# Compared rows with pictures or audio, their pictures or clips, and tokens per row. Such a row is compared whole: a
# part of a picture means nothing. Each picture costs a pass of the tower, and up to 10 MB in the reference.
MEDIA_ROWS, MEDIA, MEDIA_TOKENS = 8, 8, 2048
# Source of the compared rows if there are none but the probes, in words for the certificate.
OWN_QUESTIONS = "gemtune's own questions"
PREFERENCE_COLUMNS = ("prompt_ids", "chosen_ids")


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of a conversation, with labels as in training.

    probe: it is one of the fixed conversations. whole: all trained tokens of the row have their label, so that it shows
    whether the answer is right. media: numbers of its pictures or clips in the job's media file.
    """

    input_ids: list[int]
    labels: list[int]
    probe: bool = False
    whole: bool = True
    media: list[int] = field(default_factory=list)

    @property
    def positions(self) -> list[int]:
        """Positions that predict a compared token."""
        return [index - 1 for index, label in enumerate(self.labels) if index > 0 and label != UNTRAINED]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that a user's message ends, and its tokens in training.

    name: of the probe, or "a held-out row". options: variables of the chat template, such as tools.
    """

    name: str
    messages: list[dict[str, Any]]
    tokens: list[int]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComparisonRows:
    """Rows and prompts to compare on. source: where they come from, in words."""

    source: str
    rows: list[Row]
    prompts: list[Prompt]

    def texts(self) -> ComparisonRows:
        """Return them without the rows that have pictures or audio."""
        return replace(self, rows=[row for row in self.rows if not row.media])

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> ComparisonRows:
        """Return what `to_json` wrote."""
        rows, prompts = [Row(**row) for row in stored["rows"]], [Prompt(**prompt) for prompt in stored["prompts"]]
        return cls(stored["source"], rows, prompts)


def collect(prepared: Path, model: Path) -> ComparisonRows:
    """Collect the rows and prompts to compare on.

    The rows are held-out rows, if there are any, otherwise rows of the training, and always the probes. prepared: the
    output of prepare. model: a folder with the tokenizer and chat template of training.
    """
    encoder = Encoder(model, max_length=TOKENS)
    probe_rows, probe_prompts = _probes(encoder, model)
    for name, source in (("eval.parquet", "held-out rows"), ("train.parquet", "rows that were trained on")):
        candidates = list(islice(_rows(prepared / name), CANDIDATES))
        if candidates:
            chosen = _chosen(candidates)
            texts = [row for row in candidates if not _media_of(row)]
            prompts = _prompts_in(texts[:ROW_PROMPTS], encoder)
            return ComparisonRows(source, [*chosen, *probe_rows], [*prompts, *probe_prompts])
    return ComparisonRows(OWN_QUESTIONS, probe_rows, probe_prompts)


def _rows(path: Path) -> Iterator[Mapping[str, list[int]]]:
    """Yield the rows with answers of a token file.

    The chosen answers of DPO's rows count. Prompts of GRPO have none.
    """
    import pyarrow.parquet as pq

    names = set(pq.read_schema(path).names) if path.is_file() else set()
    if set(COLUMNS) <= names:
        yield from (row for row in read_tokens(path) if any(label != UNTRAINED for label in row["labels"]))
    elif set(PREFERENCE_COLUMNS) <= names:
        for row in read_tokens(path):
            prompt, chosen = row["prompt_ids"], row["chosen_ids"]
            yield row | {"input_ids": prompt + chosen, "labels": [UNTRAINED] * len(prompt) + chosen}


def _media_of(row: Mapping[str, list[int]]) -> list[int]:
    """Return the numbers of a row's pictures or clips."""
    return row.get(PICTURES) or row.get(AUDIO) or []


def _chosen(candidates: Sequence[Mapping[str, list[int]]]) -> list[Row]:
    """Choose the rows to compare: with pictures or audio, and texts."""
    with_media: list[Row] = []
    for candidate in candidates:
        row = _with_media(candidate)
        fits = len(with_media) < MEDIA_ROWS and sum(len(each.media) for each in [*with_media, row]) <= MEDIA
        if row.media and fits and len(row.input_ids) <= MEDIA_TOKENS:
            with_media.append(row)
    positions = sum(len(row.positions) for row in with_media)
    texts = [row for row in candidates if not _media_of(row)]
    return [*with_media, *_chosen_texts(texts, ROWS - len(with_media), POSITIONS - positions)]


def _with_media(row: Mapping[str, list[int]]) -> Row:
    """Return a whole row, with the labels of its first trained positions."""
    return _limited(Row(row["input_ids"], row["labels"], media=_media_of(row)), ROW_POSITIONS)


def _chosen_texts(candidates: Sequence[Mapping[str, list[int]]], most: int, most_positions: int) -> list[Row]:
    """Choose rows of every length and number of answers, in turn.

    Lengths are in powers of two. most, most_positions: limits of the rows and of their compared positions.
    """
    kinds: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for candidate in candidates:
        labels = candidate["labels"]
        answers = sum(
            label != UNTRAINED and before == UNTRAINED
            for before, label in zip([UNTRAINED, *labels], labels, strict=False)
        )
        kinds[min(answers, 4), len(labels).bit_length()].append(_window(candidate))
    rows: list[Row] = []
    positions = 0
    for row in (row for group in zip_longest(*(kinds[kind] for kind in sorted(kinds))) for row in group):
        if row is None or positions + len(row.positions) > most_positions:
            continue
        if len(rows) == most:
            break
        positions += len(row.positions)
        rows.append(row)
    return rows


def _first_trained(labels: Sequence[int]) -> int:
    return next(index for index, label in enumerate(labels) if label != UNTRAINED)


def _window(row: Mapping[str, list[int]]) -> Row:
    """Return at most TOKENS tokens of a row, including the first trained one."""
    start = max(0, min(_first_trained(row["labels"]) - CONTEXT_TOKENS, len(row["labels"]) - TOKENS))
    labels = row["labels"][start : start + TOKENS]
    whole = sum(label != UNTRAINED for label in labels) == sum(label != UNTRAINED for label in row["labels"])
    return _limited(Row(row["input_ids"][start : start + TOKENS], labels, whole=whole), ROW_POSITIONS)


def _limited(row: Row, positions: int) -> Row:
    """Keep the labels of the first positions only."""
    if len(row.positions) <= positions:
        return row
    last = row.positions[positions - 1] + 1
    labels = [label if index <= last else UNTRAINED for index, label in enumerate(row.labels)]
    return replace(row, labels=labels, whole=False)


def _probes(encoder: Encoder, model: Path) -> tuple[list[Row], list[Prompt]]:
    """Return the rows and prompts of the probes that the template accepts.

    Texts with control tokens are refused in rows, and users may send them all the same.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    rows, prompts, abilities = [], [], Abilities(encoder.template)
    for name, probe in PROBES.items():
        try:
            question = abilities.adapted(probe).first(-1)
            text = encoder.template.render_conversation(question, add_generation_prompt=True)
            plain = replace(question, tools=(), template_options={})
            if plain != question and text == encoder.template.render_conversation(plain, add_generation_prompt=True):
                continue  # the template does not read what the probe is about
        except (BadRow, TemplateRefusal, StepError):
            continue
        encoded = encoder.encode(probe)
        if probe.turns[-1].thinking and isinstance(encoded, Refused):
            continue
        variables = dict(question.template_options) | ({"tools": list(question.tools)} if question.tools else {})
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        prompts.append(Prompt(name, [dict(message) for message in question.messages()], tokens, variables))
        if not isinstance(encoded, Refused):
            rows.append(_limited(Row(encoded.input_ids, encoded.labels, probe=True), PROBE_POSITIONS))
    return rows, prompts


def _prompts_in(rows: Sequence[Mapping[str, list[int]]], encoder: Encoder) -> list[Prompt]:
    """Return the prompts of rows, read back from their tokens.

    There are none if the chat template writes more than fixed texts around messages.
    """
    try:
        turns = turns_of(encoder.template)
    except StepError:
        return []
    return [prompt for row in rows if (prompt := _prompt_of(encoder, turns, row)) is not None]


def _prompt_of(encoder: Encoder, turns: Turns, row: Mapping[str, list[int]]) -> Prompt | None:
    """Return the prompt of a row's first answer, or None.

    None: it is more than a user's message, because of a system message, or less, because the row was cut.
    """
    tokens = row["input_ids"][: _first_trained(row["labels"])]
    text = turns.user_text_in(encoder.text(tokens))
    if text is None:
        return None
    messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
    rendered = encoder.prompt(of_messages(messages))
    return Prompt("a held-out row", messages, tokens) if rendered == tokens else None
