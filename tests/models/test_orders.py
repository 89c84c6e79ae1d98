"""Replies to orders: what is an order is read, and everything else is refused with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.orders import LABELS, OrderError, parse_order

WRITTEN: dict[str, Callable[[list[str]], str]] = {
    "arrows": " > ".join,
    "tight arrows": ">".join,
    "commas": ", ".join,
    "lines": "\n".join,
    "arrows over lines": " >\n".join,
    "json": json.dumps,
    "json over lines": lambda labels: json.dumps(labels, indent=2),
    "json in a code block": lambda labels: f"```json\n{json.dumps(labels)}\n```",
    "list": lambda labels: f"[{', '.join(labels)}]",
    "brackets": lambda labels: " > ".join(f"({label})" for label in labels),
    "marked": lambda labels: "\n".join(f"**{label}**" for label in labels),
    "numbered": lambda labels: "\n".join(f"{number}. {label}" for number, label in enumerate(labels, 1)),
    "named": lambda labels: ", ".join(f"Answer {label}" for label in labels) + ".",
    "small": lambda labels: " > ".join(labels).lower(),
    "blank lines": lambda labels: "\n" + "\n\n".join(labels) + "\n",
}
ORDERS = st.integers(2, len(LABELS)).flatmap(lambda n: st.permutations(range(n)))


@pytest.mark.parametrize("form", WRITTEN)
@given(order=ORDERS)
def test_every_way_to_write_an_order_is_read(form: str, order: list[int]) -> None:
    assert parse_order(WRITTEN[form]([LABELS[number] for number in order]), len(order)) == tuple(order)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("B > A", "leaves out C"),
        ("B > A > C > A", "names A 2 times"),
        ("B > A > D", "names D, which is none of A, B, C"),
        ("B > A, C", "could mean two orders"),
        ("B = A > C", "holds 'B = A'"),
        ("B >= A > C", "holds '= A'"),
        ("B < A < C", "holds 'B < A < C'"),
        ("B A C", "holds 'B A C'"),
        ("The order is B > A > C", "holds 'The order is B'"),
        ("B > A > C because B is right", "holds 'C because B is right'"),
        ("B > A > C\nB > C > A", "holds 'C\\nB'"),
        ("2. B\n1. A\n3. C", "not from 1 upwards"),
        ("1. B\nA\n3. C", "not from 1 upwards"),
        ("[2, 1, 3]", "holds '2'"),
        ('["B", "A", "C",]', "holds ''"),
        ("B > A >", "holds ''"),
        ("<html><body>502</body></html>", "no order of labels"),
        ("I cannot compare these answers.", "no order of labels"),
        ("B > A > ſ", "holds 'ſ'"),
        ("\u212a > A > B", "holds '\u212a'"),
        ("[" * 5000, "5000 characters long"),
        ("B" * 100, "holds '" + "B" * 60 + "...'"),
    ],
)
def test_what_is_no_order_is_refused_with_its_reason(reply: str, reason: str) -> None:
    with pytest.raises(OrderError) as caught:
        parse_order(reply, 3)
    assert reason in str(caught.value)


@given(text=st.text() | st.text("ABCD>,.[]()\"'*1234 \n"), n=st.integers(1, 5))
def test_a_reply_is_an_order_of_all_labels_or_refused(text: str, n: int) -> None:
    try:
        order = parse_order(text, n)
    except OrderError:
        return
    assert sorted(order) == list(range(n))
    letters = [each for each in text.upper().replace("ANSWER", "").replace("JSON", "") if each in LABELS]
    assert letters == [LABELS[number] for number in order]


@given(order=ORDERS, data=st.data())
def test_a_reply_with_a_label_lost_or_doubled_is_refused(order: list[int], data: st.DataObject) -> None:
    labels = [LABELS[number] for number in order]
    place = data.draw(st.integers(0, len(labels) - 1))
    changed = labels[:place] + data.draw(st.sampled_from([[], [labels[place]] * 2])) + labels[place + 1 :]
    with pytest.raises(OrderError, match=f"{labels[place]}"):
        parse_order(" > ".join(changed), len(order))


@pytest.mark.parametrize("n", [0, 27])
def test_there_are_letters_for_26_answers(n: int) -> None:
    with pytest.raises(ValueError, match=f"not for {n}"):
        parse_order("A", n)
