from __future__ import annotations

from tests.trainer.conftest import bench, bench_of, seeing_bench_of, tiny, tiny_seeing

__all__ = ["bench", "bench_of", "seeing_bench_of", "tiny", "tiny_seeing"]
