"""Benchmark of DPO: this project's and plain scripts with TRL.

`python -m bench.preferences [--steps N]`, measured as in `bench.train`. Gemma 3 270M in bfloat16 trains on pairs with
prompts of 58 to 96 tokens and answers of 38 to 64. Both sequences of a pair count as tokens, so prompts count twice.
Writes `bench/results.json`.
"""

from __future__ import annotations

import argparse
import json

from bench.train import RESULTS, machine, measure, ratios, today
from bench.train_peers import DPO_PEERS
from bench.train_rows import SHAPES, UNTRAINED, Rows, rows

SHAPE = "preferences"


def main() -> None:
    """Train with all peers and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="train_steps of each run, the first one left out")
    steps = parser.parse_args().steps
    from examples.build_base_model import build

    folder = build()
    pairs = _pairs(rows(SHAPES[SHAPE], folder / "tokenizer.json", steps))
    lengths = [2 * len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"]) for pair in pairs]
    peers = tuple(DPO_PEERS)
    results = ratios(measure(peers, SHAPE, folder, pairs, lengths), peers[0], peers[1])
    earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(earlier | {SHAPE: results | {"machine": machine(), "at": today()}}, indent=1) + "\n")


def _pairs(supervised: Rows) -> Rows:
    """Make pairs: a row's own end is chosen, that of the next row rejected."""
    begins = [row["labels"].count(UNTRAINED) for row in supervised]
    ends = [row["input_ids"][begin:] for row, begin in zip(supervised, begins, strict=True)]
    return [
        {"prompt_ids": row["input_ids"][:begin], "chosen_ids": ends[i], "rejected_ids": ends[(i + 1) % len(ends)]}
        for i, (row, begin) in enumerate(zip(supervised, begins, strict=True))
    ]


if __name__ == "__main__":
    main()
