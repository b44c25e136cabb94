"""Comparison of an export in a process of its own.

`python -m trainer.certificate.comparison_process CASE RESULT`. The export is loaded as any user would load it, and the
step that wrote it needs no torch. CASE is a JSON file with the fields of `case.Case`, and `reference`, a folder of
`reference.write`, or else `rows` of `held_out_rows.collect`. With `floor` the base model is measured instead, as in
`comparison.measure_floor`, and with `exact` the function in 16 bits, as in `comparison.measure_function`. The result is
written to the JSON file RESULT.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from trainer.process.imports import garbage_collection_paused


def main() -> None:
    """Compare the case of the command line."""
    path, result = (Path(argument) for argument in sys.argv[1:])
    case = json.loads(path.read_text())
    # llama.cpp needs none of the slow imports, unless what the trained model says is computed first.
    is_computed = case["reference"] is None
    with garbage_collection_paused():
        from trainer.certificate.comparison import measure

        if is_computed or case["format"] != "gguf":
            import transformers.generation.utils  # noqa: F401
        if case["adapter"] is not None and (is_computed or case["format"] == "adapter"):
            import peft  # noqa: F401
    result.write_text(json.dumps(measure(case), ensure_ascii=False))


if __name__ == "__main__":
    main()
