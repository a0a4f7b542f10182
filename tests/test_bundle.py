import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from models.bundle import MANIFEST, copy_bundle, open_bundle
from models.classifier import Classifier
from models.engine_torch import TorchEngine
from models.errors import BundleError, UsageError

SENTENCES = ["We are ready to talk.", "They must withdraw at once or face sanctions.", "The session starts at nine."] * 12


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, target)
    return target


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def test_opens_and_answers(tiny_bundle: Path) -> None:
    with Classifier.open(tiny_bundle) as classifier:
        for prediction in classifier.classify(SENTENCES):
            assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
            assert prediction.probabilities[prediction.label] == max(prediction.probabilities.values())


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"])
def test_a_flipped_bit_is_refused_by_name(copy: Path, name: str) -> None:
    flip(copy / name)
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        open_bundle(copy)


def test_a_missing_an_extra_and_a_linked_file_are_refused(copy: Path) -> None:
    (copy / "extra.py").write_text("print(1)")
    with pytest.raises(BundleError, match=r"extra\.py is not part"):
        open_bundle(copy)
    (copy / "extra.py").unlink()
    (copy / "config.json").rename(copy.parent / "config.json")
    with pytest.raises(BundleError, match=r"config\.json is missing"):
        open_bundle(copy)
    (copy / "config.json").symlink_to(copy.parent / "config.json")
    with pytest.raises(BundleError, match=r"config\.json is missing or is not a regular"):
        open_bundle(copy)


def test_unknown_keys_formats_and_paths_are_refused(copy: Path) -> None:
    manifest = copy / MANIFEST
    good = manifest.read_text("utf-8")
    changes: list[Callable[[dict[str, object]], None]] = [
        lambda content: content.update(run="rm -rf /"),
        lambda content: content.update(format=2),
        lambda content: content.update(temperature=0),
        lambda content: content["files"].update({"../evil": {"sha256": "0" * 64, "bytes": 1}}),  # type: ignore[attr-defined]
    ]
    for change in changes:
        edit(manifest, change)
        with pytest.raises(BundleError):
            open_bundle(copy)
        manifest.write_text(good, "utf-8")
    manifest.write_text("{", "utf-8")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(copy)


def test_packing_drops_the_weights_and_keeps_the_answers(tiny_bundle: Path, tmp_path: Path) -> None:
    packed = copy_bundle(open_bundle(tiny_bundle), tmp_path / "packed", weights=False)
    assert "model.safetensors" not in packed.manifest.files
    with Classifier(packed) as small, Classifier.open(tiny_bundle) as whole:
        assert small.classify(SENTENCES) == whole.classify(SENTENCES)
    with pytest.raises(BundleError, match="ships for serving only"):
        TorchEngine.open(packed)


def test_saving_over_something_else_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "draft.txt").write_text("keep me")
    with pytest.raises(UsageError, match="is not a bundle"):
        copy_bundle(open_bundle(tiny_bundle), tmp_path / "letters", weights=True)
    assert (tmp_path / "letters" / "draft.txt").read_text() == "keep me"


def test_company_never_moves_an_answer(tiny_bundle: Path) -> None:
    with Classifier.open(tiny_bundle) as classifier:
        together = classifier.classify(SENTENCES)
        alone = [classifier.classify([sentence])[0] for sentence in SENTENCES]
    for left, right in zip(together, alone, strict=True):
        assert left.label == right.label
        assert left.probabilities == pytest.approx(right.probabilities, abs=1e-4)


def test_long_text_is_read_from_its_start_and_says_so(tiny_bundle: Path) -> None:
    with Classifier.open(tiny_bundle) as classifier:
        short, long = classifier.classify(["We are ready to talk.", "We are ready to talk. " * 200])
    assert not short.truncated
    assert long.truncated


def test_torch_gives_the_served_labels(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    with Classifier(bundle) as served, Classifier(bundle, engine=TorchEngine.open(bundle)) as exact:
        for left, right in zip(served.classify(SENTENCES), exact.classify(SENTENCES), strict=True):
            assert left.probabilities == pytest.approx(right.probabilities, abs=0.02)
