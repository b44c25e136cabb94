"""The example datasets and requests that users are given to try."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.shapes import make as shapes
from gemtune.embedded.folder_objects import FolderObjects
from gemtune.jobs.sources import Source
from gemtune.request.uploads.job_file import as_json
from tests.conversations import conversation_of
from tests.fakes import checked
from trainer.dataset.folders import BucketFolder
from trainer.media.sources import MediaSource
from trainer.pictures.decoding import rgb

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def messages(split: str) -> list[list[dict[str, str]]]:
    lines = (EXAMPLES / "capitals" / f"{split}.jsonl").read_text().splitlines()
    return [conversation_of(json.loads(line)).messages() for line in lines]


def test_training_and_held_out_rows_share_no_question_and_no_answer() -> None:
    train, held_out = messages("train"), messages("eval")
    for turn in (0, 1):
        assert not {chat[turn]["content"] for chat in train} & {chat[turn]["content"] for chat in held_out}
    countries = [{chat[1]["content"].split(".")[0] for chat in split} for split in (train, held_out)]
    assert not countries[0] & countries[1]
    assert (len(train), len(held_out)) == (154, 24)


def test_rows_of_shapes_have_pictures_and_held_out_rows_have_their_own_pairs(tmp_path: Path) -> None:
    data = FolderObjects(tmp_path, "data")
    shapes.write(tmp_path / "processed_datasets" / "shapes")
    source, answers = MediaSource(BucketFolder(data, "processed_datasets/shapes")), {}
    for split in ("train", "eval"):
        lines = (tmp_path / "processed_datasets" / "shapes" / f"{split}.jsonl").read_text().splitlines()
        chats = [conversation_of(json.loads(line), with_pictures=True) for line in lines]
        pictures = [rgb(source.content(image)) for chat in chats for image in chat.images()]
        assert len(pictures) == len(chats)
        answers[split] = {chat.messages()[1]["content"] for chat in chats}
    assert (len(answers["train"]), len(answers["eval"])) == (12, 4)
    assert not answers["train"] & answers["eval"]


@pytest.mark.parametrize("path", sorted((EXAMPLES / "requests").iterdir()), ids=lambda path: path.name)
def test_each_example_request_is_accepted(path: Path) -> None:
    body = as_json(path.read_bytes(), yaml=path.suffix == ".yaml")
    if path.name.endswith(".job.yaml"):
        body["processed_dataset_id"] = "capitals"
    assert checked(body, Source.UPLOAD).problems == ()
