"""Keys of judges from Prefect Secret blocks."""

import os
from typing import Any

import pytest
from prefect.blocks.system import Secret

from flows.presets import PresetError, load
from flows.secrets import put_keys
from models.endpoint_settings import JudgeEndpoint

ENDPOINT = "preferences.endpoints={hosted: {base_url: 'https://host/v1', model: m}}"


def endpoint(**changes: Any) -> JudgeEndpoint:
    return JudgeEndpoint(base_url="https://host/v1", model="m", **changes)


def test_a_block_goes_into_its_variable_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "before")
    monkeypatch.setattr(Secret, "load", lambda name: Secret(value={"judge": "sk-secret"}[name]))
    put_keys([endpoint(), endpoint(api_key_env="OTHER")])
    assert os.environ["JUDGE_KEY"] == "before"
    named = endpoint(api_key_env="JUDGE_KEY", api_key_block="judge")
    put_keys([named])
    assert os.environ["JUDGE_KEY"] == "sk-secret"
    assert "sk-secret" not in repr(named)


def test_a_block_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ValueError(f"Unable to find block document named {name}")

    monkeypatch.setattr(Secret, "load", missing)
    with pytest.raises(ValueError, match="Secret block 'judge', which does not exist"):
        put_keys([endpoint(api_key_env="JUDGE_KEY", api_key_block="judge")])


def test_a_preset_chooses_the_judge_of_an_arm() -> None:
    chosen = load("miniature", [ENDPOINT, "arms.0.judge=hosted", "arms.0.method=verdict"])
    assert [arm.judge for arm in chosen.arms] == ["hosted", "local"]
    with pytest.raises(PresetError, match=r"none of preferences.endpoints; known: local"):
        load("miniature", ["arms.0.judge=hosted"])
    with pytest.raises(PresetError, match="gives no method 'likelihood'"):
        load("miniature", [ENDPOINT, "arms.0.judge=hosted", "arms.0.method=likelihood"])
    with pytest.raises(PresetError, match="unknown key"):
        load("miniature", ["preferences.endpoints={hosted: {base_url: 'https://host/v1', model: m, price: 3}}"])
