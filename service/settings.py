"""Settings of the service: command line over environment (STANCEWIRE_*) over YAML file over default.

A misspelt key is refused with the nearest name, whether it stands in the file or in the environment.
"""

import difflib
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from models.documents import read_yaml
from models.errors import UsageError

PREFIX = "STANCEWIRE_"
_OTHER_VARIABLES = frozenset({"STANCEWIRE_CONFIG"})


class Settings(BaseSettings):
    """Everything that can be set; `configs/service.yaml` holds the defaults with a comment each."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: str = Field("default", description="default, a folder, models:/NAME@ALIAS or models:/NAME/VERSION")
    host: str = Field("127.0.0.1", description="address to bind")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0 takes a free one")
    max_sentences: int = Field(256, ge=1, description="sentences a request")
    max_explained: int = Field(16, ge=1, description="sentences a request with explain: true, each classified once a word")
    max_characters: int = Field(5000, ge=1, description="characters a sentence")
    max_body_bytes: int = Field(1_000_000, ge=1, description="bytes a request body")
    body_timeout_s: float = Field(
        10, gt=0, allow_inf_nan=False, description="seconds in which the head of a request, and then its body, must arrive"
    )
    drain_delay_s: float = Field(
        0.3, ge=0, allow_inf_nan=False, description="seconds that a stopping service still takes requests, no longer ready"
    )
    drain_timeout_s: int = Field(30, ge=0, description="seconds that accepted requests get to finish at a stop")
    request_timeout_s: float = Field(
        30, gt=0, allow_inf_nan=False, description="seconds to an answer; a request may ask for less with X-Request-Timeout-Ms"
    )
    max_queued_tokens: int = Field(65536, ge=1, description="tokens that may wait for the engine; over it requests get 429")
    workers: int = Field(1, ge=1, description="processes that share the port, each with a model of its own")
    engine_threads: int = Field(
        0, ge=0, description="engine threads of a process; 0 shares the cores, or a container's quota, among them"
    )
    follow_s: float = Field(
        30,
        ge=0,
        allow_inf_nan=False,
        description="seconds between looks at where a registry's alias points now; 0 never looks",
    )
    api_keys_file: Path | None = Field(None, description="YAML file of API keys, as `stancewire keys new` writes it")
    shadow: str | None = Field(None, description="model that scores a sample of the traffic too, such as models:/stance@challenger")
    shadow_share: float = Field(0.1, gt=0, le=1, description="share of the sentences that the shadow scores")
    drift_window: int = Field(2000, ge=100, description="sentences after which the traffic is compared with the model's reference")
    database_url: str = Field("sqlite:///labels.db", description="the label store: sqlite:///FILE or postgresql://...")
    remember_unsure: bool = Field(False, description="keep sentences that the model was not sure of, for the labelling queue")
    codebook: Path | None = Field(None, description="Markdown file shown beside the labelling page; null shows the one that ships")
    open_classify: bool = Field(False, description="without a file of keys, let other machines classify too")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read no environment here: `load_settings` merges it, so that its names can be checked."""
        return (init_settings,)


def load_settings(config: Path | None = None, **overrides: Any) -> Settings:
    """Merge file, environment and `overrides`; UsageError names the setting that is wrong."""
    if config is None and os.environ.get("STANCEWIRE_CONFIG"):
        config = Path(os.environ["STANCEWIRE_CONFIG"])
    content = read_yaml(config, "settings file", "configs/service.yaml") if config is not None else {}
    for key in content:
        if key not in Settings.model_fields:
            raise UsageError(f"{config}: unknown setting {key!r}{_nearest(str(key), list(Settings.model_fields))}.")
    names = {PREFIX + field.upper(): field for field in Settings.model_fields}
    for variable, value in os.environ.items():
        if variable.upper() in names:
            content[names[variable.upper()]] = value
        elif variable.startswith(PREFIX) and variable not in _OTHER_VARIABLES and not variable.startswith(f"{PREFIX}CI_"):
            raise UsageError(f"unknown setting {variable} in the environment{_nearest(variable, list(names))}.")
    try:
        return Settings(**(content | overrides))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise UsageError(f"a setting is not right: {faults}. configs/service.yaml shows every setting.") from error


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
