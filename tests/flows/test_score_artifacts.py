"""The tables of scores that a run shows in Prefect, on a real server."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from kept_artifacts import artifacts
from prefect import flow

from flows.artifacts import show_scores
from tasks.evaluation.entries import Entry

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
ENTRY = Entry(
    benchmark="val.qa",
    registry="msvd_qa",
    split="val",
    checkpoint="base",
    model="base@0123",
    protocol="strict",
    judge="gpt-0613@aaaa",
    prompt_hash="feedbeef",
    frames="policy",
    n_frames=8,
    decoding={"temperature": 0.25},
    settings={"prompts": "mine"},
    limit=20,
    metric="accuracy",
    group="overall",
    value=0.5,
    low=0.25,
    high=0.75,
    n=20,
    left_out=1,
    printed="0.5",
    scale=1.0,
    digits=None,
)


@flow(name="scored")
def scored(run: str, entries: list[Any]) -> None:
    show_scores(run, entries)


def shown(run: str, entries: list[Entry]) -> list[Any]:
    """The artifacts of a run with these numbers."""
    scored(run, entries)
    return artifacts(f"evaluation-{run}-%")


def test_each_way_of_measuring_has_a_table_of_its_own() -> None:
    others: list[dict[str, Any]] = [
        {"judge": "gpt-0301@bbbb"},
        {"judge": "gpt-0613@cccc"},
        {"judge": "", "protocol": "official"},
        {"prompt_hash": "0"},
        {"benchmark": "val-qa"},  # In a key the same as val.qa.
        {"frames": "few"},
        {"limit": None},
    ]
    entries = [replace(ENTRY, **change) for change in ({}, *others)]
    entries += [replace(each, checkpoint="tuned") for each in entries]
    found = shown("apart", entries)
    assert len({each.key for each in found}) == len(found) == len(entries) / 2
    for each in found:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", each.key)
        rows = json.loads(each.data)
        assert [row["checkpoint"] for row in rows] == ["base", "tuned"]
        assert not {"judge", "protocol", "benchmark"} & set(rows[0])
    assert len(shown("apart", entries)) == 2 * len(found)
    keys = {each.key for each in shown("apart", entries)}
    assert len(keys) == len(found), "a run that is started again adds versions of its tables"


def test_a_table_says_what_its_numbers_depend_on() -> None:
    points = replace(ENTRY, metric="score", value=3.5, low=None, high=None, n=0)
    percent = replace(ENTRY, scale=100.0, digits=1)
    numbers = [percent, points, replace(percent, checkpoint="tuned"), replace(percent, group="type: who")]
    (table,) = shown("told", numbers)
    for said in (
        "val.qa",
        "Split val",
        "Protocol strict",
        "judge gpt-0613@aaaa",
        "Prompts feedbeef",
        "Frames policy, at most 8",
        "temperature 0.25",
        "prompts mine",
        "at most 20 items",
    ):
        assert said in table.description, said
    rows = [(row["checkpoint"], row["metric"], row["value"], row["95 %"]) for row in json.loads(table.data)]
    assert rows == [
        ("base", "accuracy, %", "50.0", "25.0 to 75.0"),
        ("base", "score", "3.5000", "no item counts"),
        ("tuned", "accuracy, %", "50.0", "25.0 to 75.0"),
    ]


def test_a_benchmark_without_a_number_over_all_shows_its_groups() -> None:
    (table,) = shown("parts", [replace(ENTRY, group=f"aspect: {name}") for name in ("detail", "context")])
    assert [row["of"] for row in json.loads(table.data)] == ["aspect: detail", "aspect: context"]
