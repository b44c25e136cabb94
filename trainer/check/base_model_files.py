"""Tokenizer, chat template and configuration of a base model, without weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gemtune.errors import StepError
from gemtune.ports import Buckets
from gemtune.request import base_model
from trainer.base_model import folder_contents, hub_download, location


def locate(base_model_id: str, buckets: Callable[[], Buckets], work: Path, *, token: Callable[[], str | None]) -> Path:
    """Return a local folder with the small files of a base model.

    work: folder for copies from a bucket. token: returns the token for the Hub. Raises StepError if there is no such
    model, or if it cannot be trained.
    """
    model = base_model.parse(base_model_id)
    if model is None:
        raise StepError("bad_base_model", f"{base_model_id[:200]!r} names no base model")
    match model.kind:
        case "folder":
            folder = Path(model.place)
        case "gs":
            provided = {"kind": "bucket", "id": base_model_id, "place": model.place}
            folder = location.locate_without_weights(buckets(), provided, work)
        case "hub":
            folder = hub_download.fetch_without_weights(model.place, token=token)
    folder_contents.check_config(folder_contents.config_of(folder))
    return folder
