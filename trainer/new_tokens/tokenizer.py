"""Tokenizer files with tokens that a request adds to a base model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from trainer.conversation.chat_template import json_object
from trainer.new_tokens.embedding import NAME, NewTokens

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"


def add(base: Path, texts: Sequence[str], folder: Path) -> NewTokens:
    """Write a base model's tokenizer with further tokens, and what they are.

    They are ordinary tokens: a text that contains one is split around it, and decoding shows it. base: a folder with
    the base model's small files. folder: for TOKENIZER, CONFIG and NAME. Raises StepError `token_exists`,
    `bad_base_model`.
    """
    from tokenizers import AddedToken, Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(base / TOKENIZER))
    except Exception as error:  # the library raises no class of its own
        raise StepError("bad_base_model", f"the base model's tokenizer cannot be read: {error}") from error
    _check(tokenizer, texts)
    pieces = {text: tokenizer.encode(text, add_special_tokens=False).ids for text in texts}
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in texts])
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    ids = {text: vocabulary[text] for text in texts}
    tokens = NewTokens(ids, pieces, 1 + max(vocabulary.values()))
    tokenizer.save(str(folder / TOKENIZER))
    (folder / CONFIG).write_text(json.dumps(_config(json_object(base / CONFIG), ids), indent=2, ensure_ascii=False))
    tokens.write(folder)
    return tokens


def with_new_tokens(base: Path, prepared: Path, folder: Path) -> Path:
    """Return a folder with the base model's files and the job's tokenizer.

    prepared: the output of prepare. folder: to fill with links to the files, if the request adds tokens; else the base
    model's folder itself is returned.
    """
    if not (prepared / NAME).is_file():
        return base
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    for name in (TOKENIZER, CONFIG):
        (folder / name).unlink(missing_ok=True)
        shutil.copyfile(prepared / name, folder / name)
    return folder


def _check(tokenizer: Any, texts: Sequence[str]) -> None:
    """Refuse tokens that are not new, or that would hide a control token.

    Raises StepError `token_exists`.
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    existing = [text for text in texts if text in vocabulary]
    if existing:
        message = f"the base model's tokenizer has {', '.join(existing)[:200]} already"
        hint = "leave them out of new_tokens: they are tokens without it"
        raise StepError("token_exists", message, hint=hint)
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    for text in texts:
        hidden = next((token for token in special if token in text), None)
        if hidden is not None:
            message = f"the new token {text!r} contains {hidden!r}, which is a control token of the base model"
            raise StepError("token_exists", message, hint="choose another text for it")


def _config(config: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """Return tokenizer_config.json, with the tokens in its list if it has one.

    Both transformers and llama.cpp's converter trust that list where it exists.
    """
    listed = config.get("added_tokens_decoder")
    if not isinstance(listed, dict):
        return dict(config)
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)
    return dict(config) | {
        "added_tokens_decoder": listed | {str(number): {"content": text} | flags for text, number in ids.items()}
    }
