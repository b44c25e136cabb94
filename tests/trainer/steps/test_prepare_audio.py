"""Prepare for audio: clips of train and held-out rows, and refusals."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemtune.errors import RequestRefused
from gemtune.jobs.status import Step
from tests import tiny_gemma
from tests.trainer import tones
from tests.trainer.conftest import Bench
from tests.trainer.training.rl_trainers import prepared_folder
from trainer.media.arrow_file import MediaFileReader
from trainer.rows.prepared import read_tokens


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma.build(tmp_path_factory.mktemp("hearing") / "tiny", "gemma4-e")


@pytest.fixture
def audio_bench(tmp_path: Path, hearing: Path) -> Callable[..., Bench]:
    """Return a factory of audio jobs on low and high tones."""
    benches: list[Bench] = []

    def make(**training: Any) -> Bench:
        bench = Bench(tmp_path / f"home-{len(benches)}", hearing, **training)
        bench.fields["modality"] = "audio"
        bench.put("train", [tones.chat(number) for number in range(6)])
        bench.put("eval", [tones.chat(number) for number in range(6, 9)])
        benches.append(bench)
        return bench

    return make


def prepared(bench: Bench) -> list[dict[str, Any]]:
    """Return the prepared train rows, with the bytes of their clips."""
    clips = MediaFileReader(prepared_folder(bench) / "audio.arrow")
    rows = read_tokens(prepared_folder(bench) / "train.parquet")
    return [row | {"audio": [clips[number] for number in row["audio"]]} for row in rows]


def test_clips_inside_parquet_in_columns_and_in_files_give_the_same_rows(audio_bench: Callable[..., Bench]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [tones.encoded(tones.samples(number)) for number in range(6)]
    answers = [tones.right_answer(number) for number in range(6)]

    def turns(question: Any, answer: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    inside, beside, spoken = audio_bench(), audio_bench(), audio_bench()
    # As datasets of the Hub have them: a column of {bytes, path}.
    column = [
        {"messages": turns(f"<audio>{tones.QUESTION}", answer), "audio": {"bytes": file, "path": "gone.wav"}}
        for file, answer in zip(files, answers, strict=True)
    ]
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(column), parquet)
    inside.services.buckets.data.delete("processed_datasets/chats/train.jsonl")
    inside.put("train", parquet.getvalue(), suffix="parquet")
    part = {"type": "text", "text": tones.QUESTION}
    beside.put(
        "train",
        [
            {"messages": turns([{"type": "audio", "path": f"clips/{number}.wav"}, part], answer)}
            for number, answer in enumerate(answers)
        ],
    )
    for number, file in enumerate(files):
        beside.services.buckets.data.write(f"processed_datasets/chats/clips/{number}.wav", file)
    for bench in (inside, beside, spoken):
        bench.run(Step.PREPARE)
    assert prepared(inside) == prepared(beside) == prepared(spoken)
    summary = inside.read("prepared/1/prepared.json")
    assert (summary["audio"], summary["pictures"]) == (6 + 3, None)
    assert beside.read("prepared/1/report.json")["files_not_read"] == []


def test_rows_with_bad_clips_are_refused_by_their_numbers(audio_bench: Callable[..., Bench]) -> None:
    silence = tones.encoded(np.zeros(31 * tones.RATE, np.float32), kind="FLAC")
    bad = [
        ({"path": "../../secrets/x.wav"}, "outside the dataset's folder"),
        ({"path": "gone.wav"}, "the dataset's folder has no audio clip 'gone.wav'"),
        ({"path": "https://example.com/a.wav"}, "is a URL"),
        ({"bytes": "no base64"}, "an audio clip's bytes are not base64"),
        ("data:audio/wav;base64,dGV4dA==", "an audio clip that is not WAV, FLAC, OGG, MP3 or AU"),
        ({"path": "long.flac"}, "more than 30 seconds"),
    ]
    bench = audio_bench()
    bench.services.buckets.data.write("processed_datasets/chats/long.flac", silence)
    good = [tones.chat(number) for number in range(130)]
    rows = []
    for clip, _ in bad:
        row = tones.chat(0)
        row["messages"][0]["content"][0]["audio"] = clip
        rows.append(row)
    bench.put("train", [*good, *rows])
    bench.run(Step.PREPARE)
    report = bench.read("prepared/1/report.json")
    refused = report["train"]["refused_rows"]
    assert [entry["row"] for entry in refused] == [131 + index for index in range(len(bad))]
    for entry, (_, reason) in zip(refused, bad, strict=True):
        assert reason in entry["reason"]
    assert "<|audio|>…" in report["samples"][0][0]["text"]


def test_a_row_whose_clip_does_not_fit_is_refused(audio_bench: Callable[..., Bench]) -> None:
    bench = audio_bench(max_seq_length=64, too_long="cut")
    long = tones.chat(0)
    wave = tones.encoded(tones.samples(0, length=4 * tones.RATE))
    bench.services.buckets.data.write("processed_datasets/chats/long.wav", wave)
    long["messages"][0]["content"][0]["audio"] = {"path": "long.wav"}
    bench.put("train", [*(tones.chat(number) for number in range(20)), long])
    bench.run(Step.PREPARE)
    (entry,) = bench.read("prepared/1/report.json")["train"]["refused_rows"]
    assert (entry["row"], entry["reason"]) == (21, "its audio clips are beyond max_seq_length")


def test_text_with_audio_tokens_is_refused(audio_bench: Callable[..., Bench]) -> None:
    bench = audio_bench()
    row = tones.chat(0)
    row["messages"][0]["content"][1]["text"] = "What is <|audio|>?"
    bench.put("train", [*(tones.chat(number) for number in range(20)), row])
    bench.run(Step.PREPARE)
    (entry,) = bench.read("prepared/1/report.json")["train"]["refused_rows"]
    assert "<|audio|>" in entry["reason"]


def test_a_model_that_does_not_hear_is_refused_before_anything_is_prepared(
    audio_bench: Callable[..., Bench], tiny: Path
) -> None:
    bench = audio_bench(base_model_id=str(tiny))
    with pytest.raises(RequestRefused) as caught:
        bench.begin(Step.PREPARE)
    assert [problem.code for problem in caught.value.problems] == ["model_without_audio"]
