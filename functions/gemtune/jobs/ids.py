"""Job ids: `training_<dataset>_<model>_<suffix>`.

A job that only exports has `export_` in the place of `training_`. Job ids also label workflow executions, which limits
their characters and their length.
"""

from __future__ import annotations

import re
import secrets
from typing import Literal

# Form of every job id.
JOB_ID = r"^[a-z0-9_-]{1,63}$"
# An execution label has at most 63 characters of [a-z0-9_-].
_LONGEST_PART, _SUFFIX_DIGITS = 20, 12


def new_job_id(
    processed_dataset_id: str,
    base_model_id: str,
    *,
    key_hash: str | None,
    kind: Literal["training", "export"] = "training",
) -> str:
    """Return an id of at most 63 characters of [a-z0-9_-].

    The suffix is the beginning of the idempotency key's hash, or random without a key.
    """
    dataset = _safe(processed_dataset_id.removeprefix("dataset_"))
    model = _safe(base_model_id.rstrip("/").rpartition("/")[2])
    suffix = key_hash[:_SUFFIX_DIGITS] if key_hash else secrets.token_hex(_SUFFIX_DIGITS // 2)
    return f"{kind}_{dataset}_{model}_{suffix}"


def _safe(text: str) -> str:
    """Replace characters that an id may not have, and shorten the text."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:_LONGEST_PART].strip("-_") or "x"
