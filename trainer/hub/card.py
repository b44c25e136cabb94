"""Model card for the Hub: with the base model's licence, without local paths."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemtune.request import base_model
from trainer.hub.refusals import is_transient
from trainer.hub.session import TIMEOUT

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

log = logging.getLogger(__name__)

NAME = "README.md"
LICENCE_FIELDS = ("license", "license_name", "license_link")
_SHARD = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")


def is_shard(name: str) -> bool:
    """Return whether a file holds weights of a whole model, or their index."""
    return _SHARD.fullmatch(name) is not None


def card(folder: Path, base_model_id: str, api: HfApi) -> CommitOperationAdd:
    """Return the commit operation that adds an export's README.md.

    Raises what huggingface_hub raises.
    """
    from huggingface_hub import CommitOperationAdd, ModelCard

    path = folder / NAME
    local = ModelCard(path.read_text() if path.is_file() else "")
    fields = local.data.to_dict() | licence(base_model_id, api)
    fields["tags"] = sorted({*(fields.get("tags") or ()), "gemtune"})
    text = local.text.strip()
    reference = base_model.parse(base_model_id)
    if reference is None or reference.kind != "hub":  # a local path or a bucket: private, and no name of the Hub
        fields.pop("base_model", None)
        fields.pop("base_model_relation", None)
        text = text.replace(base_model_id, base_model.public_name(base_model_id))
    return CommitOperationAdd(NAME, f"---\n{_yaml(fields)}---\n\n{text}\n".encode())


def licence(base_model_id: str, api: HfApi) -> dict[str, str]:
    """Return the licence fields of the base model's card on the Hub.

    Without any, the export's own card has that of the model's family.
    """
    from huggingface_hub.errors import HfHubHTTPError

    reference = base_model.parse(base_model_id)
    if reference is None or reference.kind != "hub":
        return {}
    try:
        card_data: Any = api.model_info(reference.place, timeout=TIMEOUT).card_data
    except HfHubHTTPError as error:
        if is_transient(error.response.status_code):
            raise
        log.info("cannot read the model card of %s; using the licence of its family", reference.place)
        return {}
    fields = {name: str(card_data[name]) for name in LICENCE_FIELDS if card_data is not None and card_data.get(name)}
    return fields if "license" in fields else {}


def _yaml(fields: dict[str, Any]) -> str:
    from huggingface_hub.utils import yaml_dump

    return str(yaml_dump(fields, sort_keys=False))
