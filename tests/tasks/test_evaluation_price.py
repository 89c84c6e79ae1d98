"""What judges will cost, told before the run, beside what the same judges then are really asked and paid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, completion

from models.endpoint_settings import JudgeEndpoint
from tasks.evaluation.config import GradingConfig, ScoredBenchmark
from tasks.evaluation.file_judge import EndpointDecides
from tasks.evaluation.file_scores import score_files
from tasks.evaluation.price import JudgePrice, judge_prices

USABLE = "{'pred': 'yes', 'score': 4}"
QUESTIONS = [
    {"video_name": f"v{n}", "question": f"what is {n}", "answer": f"the {n}", "question_id": f"v_v{n}_0"}
    for n in range(3)
]


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(lambda _: Said(completion(USABLE))) as server:
        yield server


def endpoint(server: FakeEndpoint, **changes: Any) -> JudgeEndpoint:
    how = {"model": "judge-1", "retries": 0, "price_input": 2.0, "price_output": 4.0, "max_tokens": 50, **changes}
    return JudgeEndpoint(base_url=server.url, **how)


def scored(folder: Path, *protocols: str, **more: Any) -> ScoredBenchmark:
    (folder / "qa.json").write_text(json.dumps(QUESTIONS))
    about = {"benchmark": "msvd_qa", "files": {"questions": str(folder / "qa.json")}, "videos": str(folder)}
    return ScoredBenchmark.model_validate({**about, "judge": "fake", "protocols": protocols, **more})


def priced(scored: ScoredBenchmark, judge: JudgeEndpoint, lake: Path, checkpoints: int = 1) -> JudgePrice:
    grading = GradingConfig(endpoints={"fake": judge})
    (price,) = judge_prices({"mine": scored}, grading, checkpoints, str(lake))
    return price


def graded(scored: ScoredBenchmark, judge: JudgeEndpoint, replies: Sequence[str], folder: Path) -> EndpointDecides:
    """Grades the replies by every protocol; what that took."""
    rows = [
        {"id": row["question_id"], "question": row["question"], "answer": row["answer"], "pred": reply}
        for row, reply in zip(QUESTIONS, replies, strict=True)
    ]
    (folder / "said.json").write_text(json.dumps(rows))
    decides = EndpointDecides(judge, folder / "lake")
    for protocol in scored.scored_by:
        found = score_files(scored.made, scored.places, [folder / "said.json"], protocol, decides)
        assert found.predictions == len(QUESTIONS)
    return decides


@pytest.mark.parametrize(
    ("protocols", "a_question"),
    [
        (("official",), 1),
        (("official", "strict"), 1),
        (("official", "vlm_rlaif", "strict"), 2),  # It alone shows the judge "<image>".
        (("official", "video_llava", "vlm_rlaif", "llava_hound", "strict"), 2),
    ],
)
def test_as_many_calls_are_expected_as_are_made(
    protocols: tuple[str, ...], a_question: int, server: FakeEndpoint, tmp_path: Path
) -> None:
    about, judge = scored(tmp_path, *protocols), endpoint(server)
    price = priced(about, judge, tmp_path / "lake")
    assert (price.calls, price.benchmarks) == (a_question * 3, ("mine",))
    assert not server.calls
    assert not (tmp_path / "lake").exists()
    made = graded(about, judge, ["he plays the piano"] * 3, tmp_path)
    assert (made.calls, len(server.calls)) == (price.calls, price.calls)
    assert price.output_tokens == price.calls * 50
    assert price.cost == pytest.approx((price.input_tokens * 2 + price.output_tokens * 4) / 1e6)


def test_no_judge_takes_more_than_the_bound(server: FakeEndpoint, tmp_path: Path) -> None:
    """The dearest there is: it counts a token a byte, fills its replies, and says nothing that can be used."""

    def rambling(call: Call) -> Said:
        sent = len(json.dumps(call.body["messages"], ensure_ascii=False).encode())
        return Said(completion("I wonder.", tokens=(sent, 50)))

    server.reply = rambling
    about = scored(tmp_path, "official", "vlm_rlaif", "llava_hound", "strict", max_new_tokens=300)
    judge = endpoint(server, reasks=2)
    price = priced(about, judge, tmp_path / "lake")
    assert price.most_calls == 4 * 3 * 3, "four protocols, three questions, asked three times"
    # Answers that fill their 300 tokens, and that each protocol shows otherwise: in words, with an end, and cut.
    said = [f"{n}{'so ' * 390}</s>" for n in range(3)]
    made = graded(about, judge, said, tmp_path)
    assert price.calls < made.calls <= price.most_calls
    assert price.cost < made.cost <= price.most_cost


def test_a_budget_bounds_the_money_and_checkpoints_add_up(server: FakeEndpoint, tmp_path: Path) -> None:
    about = scored(tmp_path, "official", "strict")
    one, three = (priced(about, endpoint(server), tmp_path / "lake", count) for count in (1, 3))
    assert (three.calls, three.most_calls) == (3 * one.calls, 3 * one.most_calls)
    assert three.most_cost == pytest.approx(3 * one.most_cost)
    assert "a budget bounds them" in one.note
    bounded = priced(about, endpoint(server, budget=one.cost), tmp_path / "lake")
    assert (bounded.cost_bound, bounded.most_cost) == (one.cost, one.cost)
    limited = priced(scored(tmp_path, "official", limit=2), endpoint(server), tmp_path / "lake")
    assert limited.calls == 2


def test_what_rules_decide_costs_nothing(server: FakeEndpoint, tmp_path: Path) -> None:
    rows = [{"video": "v.mp4", "question": "what?", "answer": "a pan"}]
    (tmp_path / "kitchen.jsonl").write_text(json.dumps(rows[0]))
    about = {"benchmark": "custom", "files": {"": str(tmp_path / "kitchen.jsonl")}, "videos": str(tmp_path)}
    ruled = ScoredBenchmark.model_validate({**about, "settings": {"scoring": "contains"}, "judge": "fake"})
    grading = GradingConfig(endpoints={"fake": endpoint(server)})
    assert judge_prices({"ruled": ruled}, grading, 3, str(tmp_path / "lake")) == []
