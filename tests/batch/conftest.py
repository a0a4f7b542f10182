"""What the tests of scoring begin with."""

import json
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Bundle, open_bundle, save_bundle


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def other_bundle(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same network with two of its labels changed over."""

    def copied(folder: Path) -> None:
        for name in bundle.manifest.files:
            (folder / name).write_bytes((bundle.path / name).read_bytes())

    labels = bundle.manifest.label_set.model_copy(update={"labels": ("pro_pressure", "pro_dialogue", "neutral")})
    manifest = bundle.manifest.model_copy(update={"label_set": labels, "files": {}})
    return save_bundle(tmp_path_factory.mktemp("other") / "bundle", manifest, copied)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two files of 300 rows, a third of them texts that stand in other shards too, some that cannot be scored."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        rows: list[dict[str, Any]] = [{"id": f"{name}{n}", "text": f"We will talk about point {n % 200}."} for n in range(300)]
        rows[7]["text"], rows[8]["text"] = "", None
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "no JSON\n", "utf-8")
    return folder
