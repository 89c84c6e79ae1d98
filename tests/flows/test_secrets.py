"""Keys of judges from Prefect Secret blocks."""

import os
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.blocks.system import Secret

from flows.parameters import RunConfig
from flows.presets import PresetError, load
from flows.secrets import put_keys
from flows.steps import opened
from models.endpoint_settings import JudgeEndpoint
from tasks.cluster import RayKeeper
from tasks.fanout import Outcome, Unit

ENDPOINT = "preferences.endpoints={hosted: {base_url: 'https://host/v1', model: m}}"


def endpoint(**changes: Any) -> JudgeEndpoint:
    return JudgeEndpoint(base_url="https://host/v1", model="m", **changes)


def test_a_block_goes_into_its_variable_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "before")
    monkeypatch.setattr(Secret, "load", lambda name: Secret(value={"judge": "sk-secret"}[name]))
    assert put_keys([endpoint(), endpoint(api_key_env="OTHER")]) == {}
    assert os.environ["JUDGE_KEY"] == "before"
    named = endpoint(api_key_env="JUDGE_KEY", api_key_block="judge")
    assert put_keys([named]) == {"JUDGE_KEY": "sk-secret"}
    assert os.environ["JUDGE_KEY"] == "sk-secret"
    assert "sk-secret" not in repr(named)


class Environment:
    """Says which key its process has."""

    def __init__(self, name: str) -> None:
        self.key = os.environ.get(name)

    def process(self, items: list[dict[str, Any]], seed: int) -> list[Outcome]:  # noqa: ARG002
        return [Outcome(item["item_id"], [{"key": self.key}]) for item in items]


@flow
def key_at_work(run: RunConfig) -> Any:
    """What a run's worker finds in the variable of an endpoint's key."""
    with opened("small", run, None, [endpoint(api_key_env="JUDGE_KEY", api_key_block="judge")]) as step:
        ((_, (found,)),) = step.ctx.pool.run(Environment, "JUDGE_KEY", [Unit(0, [{"item_id": "one"}], 0)])
    return found.rows[0]["key"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_workers_of_a_ray_that_runs_already_are_given_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes have the environment of whoever started it."""
    there_before = RayKeeper(1, 0)
    try:
        monkeypatch.setenv("JUDGE_KEY", "before")
        Secret(value="sk-secret-of-a-block").save("judge", overwrite=True)
        assert key_at_work(RunConfig(name="keys", lake=str(tmp_path / "lake"), workers=1)) == "sk-secret-of-a-block"
    finally:
        there_before.release()
    sessions = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray").glob(f"session_*_{os.getpid()}")
    files = [path for root in (tmp_path, *sessions) for path in root.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if b"sk-secret-of-a-block" in path.read_bytes()] == []


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
