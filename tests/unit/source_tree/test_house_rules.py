"""Each rule of the source tree finds what breaks it in planted trees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import house_rules
from tests.import_graph import Tree, read
from tests.unit.source_tree.test_rooms import ALLOWED, WITHOUT_TORCH


def planted(root: Path, files: Mapping[str, str]) -> Tree:
    """Plant a tree of these files; return its imports.

    Each package gets an `__init__` that keeps the rules.
    """
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folders = {folder for name in files for folder in Path(name).parents} - {Path(), Path("functions")}
    for folder in folders:
        if not (root / folder / "__init__.py").exists():
            (root / folder / "__init__.py").write_text('"""Things."""\n')
    return read(root, ("gemtune", "trainer"))


LAZY = "def f():\n    from trainer.training import sft\n"
FOR_TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from trainer.training import sft\n"
BY_NAME = 'import importlib\nimportlib.import_module("trainer.training.sft")\n'
BY_PART_OF_A_NAME = 'import importlib\ndef f(kind):\n    return importlib.import_module(f"trainer.training.{kind}")\n'
AS_PROCESS = 'import sys\nCOMMAND = [sys.executable, "-m", "trainer.training.sft"]\n'
AS_PROGRAM = 'PROGRAM = """\nimport sys\nfrom trainer.training import sft\n"""\n'
RELATIVE = "from ..training import sft\n"
IN_ELSE = "import sys\nif sys.argv:\n    pass\nelse:\n    import trainer.training.sft as trained\n"


@pytest.mark.parametrize(
    "importing", [LAZY, FOR_TYPES, BY_NAME, BY_PART_OF_A_NAME, AS_PROCESS, AS_PROGRAM, RELATIVE, IN_ELSE]
)
def test_every_way_to_import_a_higher_floor_is_found(tmp_path: Path, importing: str) -> None:
    tree = planted(tmp_path, {"trainer/rows/packing.py": importing, "trainer/training/sft.py": ""})
    (problem,) = house_rules.forbidden_arrows(tree, ALLOWED, {})
    assert problem.startswith("trainer.rows.packing, line ")
    assert problem.endswith("trainer.rows may not import trainer.training")
    exemptions = {("trainer.rows.packing", "trainer.training.sft"): "for this test"}
    assert house_rules.forbidden_arrows(tree, ALLOWED, exemptions) == []
    assert house_rules.needless_exemptions(tree, exemptions) == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("functions/gemtune/jobs/record.py", "gemtune.services.acceptance.submit"),
        ("functions/gemtune/request/rules.py", "gemtune.handlers.routes"),
        ("functions/gemtune/services/submit.py", "gemtune.embedded.database"),
        ("functions/gemtune/handlers/routes.py", "gemtune.gcp.pubsub_bus"),
        ("functions/gemtune/cli/jobs.py", "gemtune.embedded.database"),
        ("functions/gemtune/errors/base.py", "gemtune.jobs.record"),
        ("functions/gemtune/machines/cost.py", "trainer.rows.packing"),
        ("trainer/store/manifest.py", "gemtune.services.acceptance.submit"),
        ("trainer/steps/train.py", "gemtune.bootstrap"),
        ("trainer/conversation/chat_template.py", "trainer.context"),
    ],
)
def test_imports_that_the_table_forbids_are_found(tmp_path: Path, importer: str, imported: str) -> None:
    target = ("functions/" if imported.startswith("gemtune") else "") + imported.replace(".", "/") + ".py"
    tree = planted(tmp_path, {importer: f"import {imported}\n", target: ""})
    assert len(house_rules.forbidden_arrows(tree, ALLOWED, {})) == 1


def test_rooms_missing_in_the_table_and_needless_exemptions_are_found(tmp_path: Path) -> None:
    tree = planted(tmp_path, {"trainer/attic/box.py": ""})
    unknown, missing = house_rules.rooms_without_a_place(tree, {"trainer", "trainer.cellar"})
    assert unknown.startswith("trainer.attic: say")
    assert missing.startswith("trainer.cellar: there is no")
    assert len(house_rules.needless_exemptions(tree, {("trainer.attic.box", "trainer"): "none"})) == 1


def test_circles_of_modules_and_rooms_are_found(tmp_path: Path) -> None:
    files = {
        "trainer/rows/a.py": "def f():\n    from trainer.rows import b\n",
        "trainer/rows/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from trainer.store.c import C\n",
        "trainer/store/c.py": "import trainer.rows.d\n",
        "trainer/rows/d.py": "",
    }
    tree = planted(tmp_path, files)
    assert house_rules.file_circle(tree, {}) == []
    assert set(house_rules.room_circle(tree, {})) == {"trainer.rows", "trainer.store"}
    tree = planted(tmp_path, {"trainer/rows/d.py": "from trainer.rows.a import f\n"})
    assert set(house_rules.file_circle(tree, {})) == {f"trainer.rows.{name}" for name in "abd"} | {"trainer.store.c"}
    assert house_rules.file_circle(tree, {("trainer.rows.d", "trainer.rows.a"): "for this test"}) == []


def test_crowded_rooms_repeated_names_and_missing_docstrings_are_found(tmp_path: Path) -> None:
    files = {f"trainer/rows/file_{number}.py": "" for number in range(13)}
    tree = planted(tmp_path, files | {"trainer/rows/row_kinds.py": "", "trainer/store/__init__.py": '"""No period"""'})
    (crowded,) = house_rules.crowded_folders(tree, {})
    assert crowded.startswith("trainer.rows holds 14 modules")
    assert house_rules.crowded_folders(tree, {"trainer.rows": 14}) == []
    assert house_rules.repeated_names(tree) == ["trainer.rows.row_kinds repeats the name of its folder"]
    assert house_rules.rooms_without_a_line(tree) == [
        "trainer.store/__init__.py: begin with one line of at most 79 columns, ending in a period"
    ]
    for text in ("", '"""Goes on\nand on."""', f'"""{"A" * 74}."""'):
        tree = planted(tmp_path, {"trainer/store/__init__.py": text})
        assert len(house_rules.rooms_without_a_line(tree)) == 1


def test_long_files_and_needless_exemptions_are_found(tmp_path: Path) -> None:
    files = {
        "trainer/rows/packing.py": "\n" * 301,
        "trainer/rows/kinds.py": "\n" * 300,
        "trainer/rows/x.py": "\n" * 400,
    }
    tree = planted(tmp_path, files)
    exempt = {"trainer.rows.x": "one table", "trainer.rows.kinds": "one table"}
    assert house_rules.long_files(tree, exempt) == [
        "trainer.rows.packing has 301 lines: split it where it changes its subject",
        "trainer.rows.kinds is not long any more: delete the exemption",
    ]


def test_imports_of_torch_and_of_foreign_packages_are_found(tmp_path: Path) -> None:
    files = {
        "functions/gemtune/jobs/record.py": "def f():\n    import torch.nn\n",
        "trainer/rows/packing.py": "if TYPE_CHECKING:\n    from transformers import x\n",
        "trainer/steps/prepare.py": "from trainer.base_model import size\n",
        "trainer/base_model/size.py": "def f():\n    from torch import Tensor\n",
    }
    tree = planted(tmp_path, files)
    assert len(house_rules.torch_in(tree, WITHOUT_TORCH)) == 2
    assert len(house_rules.torch_reached_from(tree, "trainer.steps.prepare")) == 1
    assert house_rules.foreign_packages(tree, "gemtune.jobs") == ["gemtune.jobs.record, line 2: import of torch.nn"]


def test_modules_that_implement_no_port_are_found(tmp_path: Path) -> None:
    files = {
        "functions/gemtune/ports/bus.py": "class Bus(Protocol):\n    def publish(self): ...\n    def pull(self): ...\n",
        "functions/gemtune/gcp/bus.py": "from . import part\nclass A:\n    def publish(s): 1\n    def pull(s): 1\n",
        "functions/gemtune/gcp/part.py": "",
        "functions/gemtune/gcp/lines.py": "class B:\n    def publish(self): ...\n",
        "functions/gemtune/backend.py": "from gemtune.gcp import bus, lines\n",
    }
    tree = planted(tmp_path, files)
    ports = house_rules.protocols(tree, "gemtune.ports")
    assert ports == {"Bus": {"publish", "pull"}}
    (problem,) = house_rules.strangers_among_ports(tree, "gemtune.gcp", ports, ())
    assert problem == "gemtune.gcp.lines is no port, nor a part of one: gemtune.backend imports it"
    assert house_rules.ports_implemented(tree, "gemtune.gcp", ports)["gemtune.gcp.bus"] == ["Bus"]


def test_names_of_missing_modules_and_files_are_found(tmp_path: Path) -> None:
    files = {
        "trainer/rows/packing.py": 'KIND = "trainer.rows.kinds"\nPLAN = "trainer.rows.packing.plan"\ndef plan(): ...\n',
        "trainer/steps/prepare.py": 'RUN = ["-m", "trainer.packing"]\nCODE = "from trainer import packing"\n',
        "trainer/steps/train.py": 'def f(kind):\n    return f"trainer.packing.{kind}"\n',
    }
    assert planted(tmp_path, files).dead_names == [
        "trainer.rows.packing, line 1: trainer.rows.kinds",
        "trainer.steps.prepare, line 1: python -m trainer.packing",
        "trainer.steps.prepare, line 2: trainer.packing",
        "trainer.steps.train, line 2: trainer.packing.…",
    ]
    texts = {"README.md": "see rows/packing.py, ./attic.py and `python -m trainer.rows.packing`, python3 -m trainer.x."}
    assert house_rules.dead_mentions(texts, ["trainer/rows/packing.py"], ()) == [
        "README.md names ./attic.py, which is not there",
        "README.md runs trainer.x., which is not there",
    ]


def test_processes_of_the_trainer_import_nothing_from_the_current_folder() -> None:
    root = Path(__file__).parents[3]
    sources = [path for folder in ("functions", "trainer") for path in (root / folder).rglob("*.py")]
    commands = [line for path in sources for line in path.read_text().splitlines() if '"-m", "trainer' in line]
    assert len(commands) > 1
    # A user's project may have a trainer.py, too.
    assert [line for line in commands if '"-P", "-m", "trainer' not in line] == []
