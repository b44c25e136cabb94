"""Prepare for vision: pictures of train and held-out rows, and refusals."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gemtune.errors import RequestRefused
from gemtune.jobs.status import Step
from tests import rows
from tests.trainer.conftest import Bench
from trainer.media.arrow_file import MediaFileReader
from trainer.rows.prepared import read_tokens


def test_pictures_inside_parquet_and_in_files_give_the_same_rows(vision_bench_of: Callable[..., Bench]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def row_with(image: dict[str, Any]) -> dict[str, Any]:
        content = [
            {"type": "image", "text": None, "image": image},
            {"type": "text", "text": rows.QUESTION, "image": None},
        ]
        answer = [{"type": "text", "text": "Captain", "image": None}]
        return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}

    inside, separate = vision_bench_of(), vision_bench_of()
    pictures = [rows.picture("red", number) for number in range(12)]
    parquet = io.BytesIO()
    columns = [row_with({"bytes": picture, "path": f"{n}.png"}) for n, picture in enumerate(pictures)]
    pq.write_table(pa.Table.from_pylist(columns), parquet)
    inside.services.buckets.data.delete("processed_datasets/chats/train.jsonl")
    inside.put("train", parquet.getvalue(), suffix="parquet")
    separate.put("train", [row_with({"bytes": None, "path": f"pictures/{n}.png"}) for n in range(12)])
    for number, picture in enumerate(pictures):
        separate.services.buckets.data.write(f"processed_datasets/chats/pictures/{number}.png", picture)
    for bench in (inside, separate):
        bench.run(Step.PREPARE)
    assert prepared(inside) == prepared(separate)
    assert inside.read("prepared/1/prepared.json")["pictures"] == 12 + 8


def prepared(bench: Bench) -> list[dict[str, Any]]:
    """Return the prepared train rows, with the bytes of their pictures."""
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    picture_file = MediaFileReader(folder / "pictures.arrow")
    return [
        row | {"pictures": [picture_file[n] for n in row["pictures"]]} for row in read_tokens(folder / "train.parquet")
    ]


def test_held_out_rows_take_their_pictures_along(vision_bench_of: Callable[..., Bench]) -> None:
    bench = vision_bench_of(eval_strategy="epoch")
    bench.services.buckets.data.delete("processed_datasets/chats/eval.jsonl")
    bench.run(Step.PREPARE)
    folder = Path(bench.services.buckets.export.uri(f"jobs/{bench.job_id}/prepared/1"))
    numbers = [row["pictures"] for split in ("train", "eval") for row in read_tokens(folder / f"{split}.parquet")]
    assert sorted(numbers) == [[number] for number in range(24)]


def test_a_row_with_a_bad_picture_is_refused_by_its_number(vision_bench_of: Callable[..., Bench]) -> None:
    bench = vision_bench_of()
    bad = rows.picture_rows(1, first=50)[0]
    bad["messages"][0]["content"][0]["image"] = {"bytes": None, "path": "../../secrets/x.png"}
    bench.put("train", [*rows.picture_rows(20), bad])
    bench.run(Step.PREPARE)
    (entry,) = bench.read("prepared/1/report.json")["train"]["refused_rows"]
    assert (entry["row"], "outside the dataset" in entry["reason"]) == (21, True)
    assert "<image_soft_token>…" in bench.read("prepared/1/report.json")["samples"][0][0]["text"]


def test_long_rows_of_base64_are_read(vision_bench_of: Callable[..., Bench]) -> None:
    bench = vision_bench_of()
    pixels = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    large = rows.picture_rows(1)[0]
    large["messages"][0]["content"][0]["image"]["bytes"] = base64.b64encode(written.getvalue()).decode()
    bench.put("train", [large, *rows.picture_rows(3)])
    bench.run(Step.PREPARE)
    assert bench.read("prepared/1/prepared.json")["rows"] == 4
    assert len(prepared(bench)[0]["pictures"][0]) < 20_000


def test_a_model_without_vision_is_refused_before_anything_is_prepared(
    vision_bench_of: Callable[..., Bench], tiny: Path
) -> None:
    bench = vision_bench_of(base_model_id=str(tiny))
    with pytest.raises(RequestRefused) as caught:
        bench.begin(Step.PREPARE)
    assert [problem.code for problem in caught.value.problems] == ["model_without_vision"]
