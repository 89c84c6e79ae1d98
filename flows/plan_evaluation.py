"""What the section `evaluate` of a run will ask of judges behind endpoints, as lines of its plan."""

from __future__ import annotations

from dataclasses import replace

from flows.parameters import Parameters
from storage.errors import FormatError
from tasks.evaluation.price import judge_prices
from tasks.plan import Line, Plan


def with_judges(made: Plan, p: Parameters) -> Plan:
    """The plan with a line for each endpoint that will grade answers; as it is where there is no such section."""
    lines, notes = _judge_lines(p)
    return replace(made, lines=[*made.lines, *lines], notes=[*made.notes, *notes])


def _judge_lines(p: Parameters) -> tuple[list[Line], list[str]]:
    """A line an endpoint, and notes on what is not told."""
    if p.evaluate is None:
        return [], []
    models = len(("base", "sft", *p.arms))
    count = len(p.evaluate.benchmarks)
    notes = [f"Section evaluate: the answers of {models} models to {count} benchmarks are not in the sum, judges are."]
    try:
        prices = judge_prices(p.evaluate.benchmarks, p.evaluate.grading, models, p.run.lake_root)
    except FormatError as error:
        return [], [*notes, f"What its judges will be asked cannot be told: {error}"]
    lines = [
        Line(
            name=f"grades by {each.judge}",
            items=each.calls,
            to_do=each.calls,
            calls=each.calls,
            input_tokens=each.input_tokens,
            output_tokens=each.output_tokens,
            cost=each.cost,
            cost_bound=each.cost_bound,
            account=each.account,
            note=f"{each.note}; at most {each.most_calls:,} calls and {each.most_cost:.2f}",
        )
        for each in prices
    ]
    return lines, notes
