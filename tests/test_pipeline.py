from pathlib import Path


def test_trains(tiny_bundle: Path) -> None:
    assert (tiny_bundle / "manifest.json").is_file()
