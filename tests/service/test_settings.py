from pathlib import Path

import pytest
import yaml

from models.errors import UsageError
from service.settings import Settings, load_settings

ROOT = Path(__file__).parent.parent.parent


def test_the_file_of_defaults_is_complete_and_true() -> None:
    path = ROOT / "configs" / "service.yaml"
    assert set(yaml.safe_load(path.read_text("utf-8"))) == set(Settings.model_fields)
    assert load_settings(path) == Settings()


def test_the_readme_documents_every_setting() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in Settings.model_fields if f"`{name}`" not in readme] == []


def test_command_line_goes_before_environment_before_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "service.yaml"
    path.write_text("port: 1\nhost: a\nmax_sentences: 7\n", "utf-8")
    monkeypatch.setenv("STANCEWIRE_PORT", "2")
    monkeypatch.setenv("STANCEWIRE_HOST", "b")
    monkeypatch.setenv("STANCEWIRE_CONFIG", str(path))
    settings = load_settings(host="c")
    assert (settings.max_sentences, settings.port, settings.host) == (7, 2, "c")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("prot: 1", "did you mean port"),
        ("port: many", "port: "),
        ("port: 70000", "port: "),
        ("- a", "must hold keys"),
        ("a: b: c", "cannot be read as YAML"),
    ],
)
def test_a_wrong_file_gets_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(content, "utf-8")
    with pytest.raises(UsageError, match=sentence):
        load_settings(path)
    with pytest.raises(UsageError, match="there is no settings file"):
        load_settings(tmp_path / "none.yaml")


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANCEWIRE_PROT", "1")
    with pytest.raises(UsageError, match="did you mean STANCEWIRE_PORT"):
        load_settings()


def test_the_label_stores_variable_is_not_a_setting_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANCEWIRE_DATABASE_URL", "sqlite:///labels.db")
    assert load_settings() == Settings()


@pytest.mark.parametrize("value", [".inf", ".nan", "0"])
def test_a_timeout_is_a_length_of_time(tmp_path: Path, value: str) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(f"body_timeout_s: {value}\n", "utf-8")
    with pytest.raises(UsageError, match="body_timeout_s: "):
        load_settings(path)
