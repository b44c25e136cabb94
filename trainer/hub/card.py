"""The model card as the Hub gets it: with the base model's licence, and without what means nothing there."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemtune import families
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
    """Whether a file is one of those that a whole model's weights are in."""
    return _SHARD.fullmatch(name) is not None


def card(folder: Path, base_model_id: str, api: HfApi) -> CommitOperationAdd:
    """The README.md of an export, to be committed. Raises what huggingface_hub raises."""
    from huggingface_hub import CommitOperationAdd, ModelCard

    path = folder / NAME
    found = ModelCard(path.read_text() if path.is_file() else "")
    fields = found.data.to_dict() | licence(base_model_id, api)
    fields["tags"] = sorted({*(fields.get("tags") or ()), "gemtune"})
    text = found.text.strip()
    named = base_model.parse(base_model_id)
    if named is None or named.kind != "hub":  # a path of ours, or a bucket's: nobody else's business, and no Hub name
        fields.pop("base_model", None)
        fields.pop("base_model_relation", None)
        text = text.replace(base_model_id, base_model.public_name(base_model_id))
    return CommitOperationAdd(NAME, f"---\n{_yaml(fields)}---\n\n{text}\n".encode())


def licence(base_model_id: str, api: HfApi) -> dict[str, str]:
    """What the base model's own card says of its licence, or that of its family where there is none to read."""
    from huggingface_hub.errors import HfHubHTTPError

    family = families.of_name(base_model_id)
    usual = {"license": "gemma" if family is None else family.licence}
    named = base_model.parse(base_model_id)
    if named is None or named.kind != "hub":
        return usual
    try:
        said: Any = api.model_info(named.place, timeout=TIMEOUT).card_data
    except HfHubHTTPError as error:
        if is_transient(error.response.status_code):
            raise
        log.info("the card of %s is not to be read; its licence is taken for its family's", named.place)
        return usual
    found = {name: str(said[name]) for name in LICENCE_FIELDS if said is not None and said.get(name)}
    return found if "license" in found else usual


def _yaml(fields: dict[str, Any]) -> str:
    from huggingface_hub.utils import yaml_dump

    return str(yaml_dump(fields, sort_keys=False))
