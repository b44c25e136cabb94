"""Tokenizer files with new tokens, beside transformers' `add_tokens`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from gemtune.errors import StepError
from trainer.new_tokens import embedding, tokenizer
from trainer.new_tokens.embedding import NewTokens

TEXTS = ["<think>", "§7", "</think>"]
SENTENCES = ["<think>sky</think> §77", "a<think> §7</think>", "<thin k> § 7", "The sky is blue."]


def test_the_files_load_as_a_tokenizer_that_transformers_added_the_tokens_to(tmp_path: Path, tiny: Path) -> None:
    from transformers import AddedToken, AutoTokenizer

    added = tokenizer.add(tiny, TEXTS, tmp_path)
    shutil.copyfile(tiny / "tokenizer.model", tmp_path / "tokenizer.model")
    expected, before = AutoTokenizer.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    expected.add_tokens([AddedToken(text, normalized=False) for text in TEXTS])
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == len(expected) == added.tokenizer_size == len(before) + 3
    assert added.ids == {text: expected.convert_tokens_to_ids(text) for text in TEXTS}
    assert added.pieces == {text: before(text, add_special_tokens=False).input_ids for text in TEXTS}
    for sentence in SENTENCES:
        ids = expected(sentence).input_ids
        assert loaded(sentence).input_ids == ids
        assert loaded.decode(ids, skip_special_tokens=True) == expected.decode(ids, skip_special_tokens=True)
    assert embedding.read(tmp_path) == added


def test_a_list_of_added_tokens_gets_the_new_ones(tmp_path: Path, tiny: Path) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    config = json.loads((base / "tokenizer_config.json").read_text())
    listed = {"4": {"content": "<start_of_turn>", "special": True}}
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": listed}))
    added = tokenizer.add(base, ["<a>"], tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert set(written) == {"4", str(added.ids["<a>"])}
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)
    assert written[str(added.ids["<a>"])] == {"content": "<a>"} | flags


@pytest.mark.parametrize("text", ["<start_of_turn>", "<bos>", "s", "<0x41>", "x<end_of_turn>"])
def test_what_is_a_token_or_hides_one_is_refused(tmp_path: Path, tiny: Path, text: str) -> None:
    with pytest.raises(StepError) as caught:
        tokenizer.add(tiny, ["<a>", text], tmp_path)
    assert caught.value.code == "token_exists"
    assert not list(tmp_path.iterdir())


def test_without_new_tokens_the_base_models_folder_is_used_as_it_is(tmp_path: Path, tiny: Path) -> None:
    assert tokenizer.with_new_tokens(tiny, tmp_path, tmp_path / "linked") == tiny
    tokenizer.add(tiny, ["<a>"], tmp_path)
    folder = tokenizer.with_new_tokens(tiny, tmp_path, tmp_path / "linked")
    assert {path.name for path in folder.iterdir()} == {path.name for path in tiny.iterdir()}
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_first_rows_are_means_of_pieces_and_of_all() -> None:
    table = torch.randn(8, 4)
    tokens = NewTokens({"<a>": 9, "<b>": 10}, {"<a>": [1, 2], "<b>": [3]}, 11)
    assert tokens.trained_rows(8) == [8, 9, 10]
    extended = tokens.extended(table)
    assert torch.equal(extended[:8], table)
    expected = torch.stack([table.mean(0), (table[1] + table[2]) / 2, table[3]])
    torch.testing.assert_close(extended[8:], expected)


def test_spare_rows_of_an_embedding_are_used() -> None:
    table = torch.randn(16, 4)
    tokens = NewTokens({"<a>": 9}, {"<a>": [1, 2]}, 10)
    assert tokens.rows_after(16) == 16
    assert tokens.trained_rows(16) == [9]
    extended = tokens.extended(table)
    assert extended.shape == table.shape
    torch.testing.assert_close(extended[9], (table[1] + table[2]) / 2)
    assert torch.equal(extended[torch.arange(16) != 9], table[torch.arange(16) != 9])
