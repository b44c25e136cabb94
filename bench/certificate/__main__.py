"""Trials of the parity certificate on tiny models that are really trained.

`python -m bench.certificate [sabotages] [honest] [noise]`; without a name, all three. `sabotages`: spoilt exports, at
least 29 of 30 of which have to be refused. `honest`: exports as gemtune writes them, none of which may be refused.
`noise`: exports with as much Gaussian noise as just passes, which have to do their task all the same. Prints a table
for each trial, and exits with 1 if one of them misses its aim. llama.cpp is needed (`make llama`).

`python -m bench.certificate --base FOLDER` tries noise on another model instead, such as the one of `make demo`, which
learns the example dataset of capitals with LoRA. For Gemma 3 270M each of some 16 exports takes one to three minutes;
`--export merged:none`, which can be repeated, tries this one only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.certificate import honest, jobs, noise, sabotages

# Share of spoilt exports that has to be noticed, and right answers that noise may cost.
NOTICED, FORGIVEN = 29 / 30, 2
SHOWN = 100


def main(chosen: Sequence[str], larger: Path | None, exports: Sequence[str]) -> bool:
    """Run the chosen trials, or all; return whether all reached their aims.

    larger: the base model to try noise on instead. exports: names of its exports to try; all without one.
    """
    with tempfile.TemporaryDirectory(prefix="gemtune-certificate-") as folder:
        work = Path(folder)
        if larger is not None:
            return _keep_their_task(
                noise.run_on(work, larger, [noise.OF_LARGER[name] for name in exports or noise.OF_LARGER])
            )
        base = jobs.teach(work / "taught")
        reached = [trial(work / name, base) for name, trial in TRIALS.items() if name in (chosen or TRIALS)]
        return all(reached)


def _sabotages(work: Path, base: Path) -> bool:
    verdicts = sabotages.run(work, base)
    _print(("sabotage", "noticed because"), [(each.name, each.refusal or "**not noticed**") for each in verdicts])
    noticed = sum(each.refusal != "" for each in verdicts)
    print(f"\n{noticed} of {len(verdicts)} spoilt exports were noticed.\n")
    return noticed >= NOTICED * len(verdicts)


def _honest(work: Path, base: Path) -> bool:
    verdicts = honest.run(work, base)
    _print(("honest export", "verdict"), [(each.name, each.refusal or "certified") for each in verdicts])
    refused = sum(each.refusal != "" for each in verdicts)
    print(f"\n{refused} of {len(verdicts)} honest exports were refused.\n")
    return refused == 0


def _noise(work: Path, base: Path) -> bool:
    return _keep_their_task(noise.run(work, base))


def _keep_their_task(trials: Sequence[noise.Trial]) -> bool:
    heads = ("export", "strongest noise that passes", "without noise", "right", "trained model", "of")
    _print(heads, [each.cells() for each in trials])
    lost = sum(each.right < each.right_trained - FORGIVEN for each in trials)
    print(f"\n{lost} of {len(trials)} exports with noise that just passes lost their task.\n")
    return lost == 0


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(cell.replace('|', '¦').replace(chr(10), ' ')[:SHOWN] for cell in row)} |", flush=True)


TRIALS: Mapping[str, Callable[[Path, Path], bool]] = {"sabotages": _sabotages, "honest": _honest, "noise": _noise}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.certificate")
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"{', '.join(TRIALS)}; all without one")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="base model to try noise on, instead of tiny ones")
    parser.add_argument("--export", action="append", default=[], choices=noise.OF_LARGER, help="of --base")
    arguments = parser.parse_args()
    if unknown := set(arguments.trials) - set(TRIALS):
        parser.error(f"there is no trial {', '.join(sorted(unknown))}: choose among {', '.join(TRIALS)}")
    if arguments.export and arguments.base is None:
        parser.error("--export needs --base")
    if arguments.trials and arguments.base is not None:
        parser.error("with --base there is one trial only")
    return arguments


if __name__ == "__main__":
    options = _arguments()
    sys.exit(0 if main(options.trials, options.base, options.export) else 1)
