"""`python -m bench.preferences [--steps N]`: this project's DPO beside plain scripts of TRL's, measured as by
`bench.train`.

Pairs of Gemma 3 270M in bfloat16: prompts of 58 to 96 tokens, answers of 38 to 64. Tokens are those that both sequences
of a pair have, the prompt twice. Writes `bench/results.json`.
"""

from __future__ import annotations

import argparse
import json

from bench.train import RESULTS, machine, measure, ratios, today
from bench.train_peers import OF_PREFERENCES
from bench.train_rows import SHAPES, UNTRAINED, Rows, rows

SHAPE = "preferences"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="train_steps of each run, the first one left out")
    steps = parser.parse_args().steps
    from examples.build_base_model import build

    folder = build()
    pairs = _pairs(rows(SHAPES[SHAPE], folder / "tokenizer.json", steps))
    lengths = [2 * len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"]) for pair in pairs]
    peers = tuple(OF_PREFERENCES)
    found = ratios(measure(peers, SHAPE, folder, pairs, lengths), peers[0], peers[1])
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(kept | {SHAPE: found | {"machine": machine(), "at": today()}}, indent=1) + "\n")


def _pairs(given: Rows) -> Rows:
    """The end of each row is preferred to that of the next one."""
    begins = [row["labels"].count(UNTRAINED) for row in given]
    ends = [row["input_ids"][begin:] for row, begin in zip(given, begins, strict=True)]
    return [
        {"prompt_ids": row["input_ids"][:begin], "chosen_ids": ends[i], "rejected_ids": ends[(i + 1) % len(ends)]}
        for i, (row, begin) in enumerate(zip(given, begins, strict=True))
    ]


if __name__ == "__main__":
    main()
