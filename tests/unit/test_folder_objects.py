"""What a folder of objects has to look out for that a bucket has not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemtune.errors import UnsafeName
from tests.fakes import World


def test_a_link_that_leads_out_is_refused(world: World, tmp_path: Path) -> None:
    objects = world.services.buckets.export
    (tmp_path / "outside").write_text("secret")
    Path(objects.uri("link")).symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeName, match="a link takes 'link' out of") as refused:
        objects.read("link")
    assert refused.value.hint == "put the files themselves there"
    assert list(objects.list("")) == []
