"""What the published scorers read out of a judge's reply, each in its own way; and what it says, read rightly.

Pure text. Sources, by whose behaviour these functions are written:
Video-ChatGPT (https://github.com/mbzuai-oryx/Video-ChatGPT, quantitative_evaluation),
lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval, tasks activitynetqa and videochatgpt),
LLaVA-Hound (https://github.com/RifleZhang/LLaVA-Hound-DPO, eval_official_qa.py and inference/utils.py).
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["yes", "no"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What Video-ChatGPT's scripts make of a reply.

    Attributes:
        stage: "ok"; "parse": the reply is no Python literal: nothing is kept, and the script asks again, for ever;
            "aggregate": it is kept, and stops the whole script when the numbers are summed.
        score: the score, cut to a whole number; set too where only the verdict stops the script.
        verdict: "yes" or "no"; None where the reply says neither (or is not asked for one).
        error: name of the exception that the script runs into; "" for none.
    """

    stage: Literal["ok", "parse", "aggregate"]
    score: int | None = None
    verdict: Verdict | None = None
    error: str = ""


def video_chatgpt_qa(reply: str) -> Reading:
    """Reads as evaluate_activitynet_qa.py: a Python literal, a score, and "yes" or "no" anywhere in 'pred'."""
    read, said = _scored(reply)
    if read.stage != "ok":
        return read
    try:
        return Reading("ok", read.score, _verdict(said["pred"].lower()))
    except Exception as error:
        return Reading("aggregate", read.score, error=type(error).__name__)


def video_chatgpt_score(reply: str) -> Reading:
    """Reads as the five evaluate_benchmark_*.py: a Python literal whose 'score' `int` takes: 4.8 is 4, 7 is 7."""
    return _scored(reply)[0]


def _scored(reply: str) -> tuple[Reading, Any]:
    """The score, and the value that the reply is."""
    try:
        said = ast.literal_eval(reply)
    except Exception as error:
        return Reading("parse", error=type(error).__name__), None
    try:
        # The scripts keep a reply as JSON in between. What JSON cannot hold (a set) leaves a broken file behind.
        said = json.loads(json.dumps(said))
        return Reading("ok", int(said["score"])), said
    except Exception as error:
        return Reading("aggregate", error=type(error).__name__), None


def _verdict(lowered: str) -> Verdict | None:
    """So "unknown", "not sure" and "none" are a "no"."""
    return "yes" if "yes" in lowered else "no" if "no" in lowered else None


def lmms_activitynet(reply: str) -> tuple[str, int] | None:
    """Reads as `parse_score` of lmms-eval's activitynetqa: what stands between the first { and the } after it.

    Returns 'pred' (as "yes" or "no" where it holds one, else as it stands) and the score; None for every failure, at
    which the caller there stops with a TypeError.
    """
    try:
        inside, _, _ = reply.split("{")[1].partition("}")
        said = ast.literal_eval("{" + inside + "}")
        score, pred = int(said["score"]), said["pred"]
        return _verdict(pred.lower()) or pred, score
    except Exception:
        return None


def lmms_videochatgpt(reply: str) -> int:
    """Reads as `parse_score` of lmms-eval's videochatgpt: every failure is a score of 0."""
    try:
        return int(ast.literal_eval(reply).get("score", 0))
    except Exception:
        return 0


_HOUND_KEY = re.compile(r"""(['"])score\1\s*:\s*(\d+)""")


def hound_extract_score(reply: str) -> int | None:
    """The digits behind the first 'score' or "score" key, wherever it stands: of 4.8 the 4. None for no such key."""
    found = _HOUND_KEY.search(reply)
    try:
        return int(found[2]) if found else None
    except ValueError:  # More digits than Python reads.
        return None


def hound_verdict(reply: str) -> Verdict | None:
    """ "yes" anywhere in the whole reply, else "no" anywhere."""
    return _verdict(reply.lower())


_HOUND_SCORE = re.compile(r"Score: (\d+\.?\d*)")
_HOUND_NUMBER = re.compile(r"\b\d+\.?\d*\b")


def hound_get_score(reply: str) -> float:
    """LLaVA-Hound's own QA: the number behind "Score: "; else the commonest number of the reply, the mean of the
    commonest where several are; 1 where there is no number.
    """
    if stated := _HOUND_SCORE.search(reply):
        return float(stated[1])
    counts = Counter(float(number) for number in _HOUND_NUMBER.findall(reply))
    if not counts:
        return 1
    most = max(counts.values())
    commonest = [number for number, count in counts.items() if count == most]
    return sum(commonest) / len(commonest)


@dataclass(frozen=True, slots=True)
class Said:
    """What a reply says, read rightly.

    Attributes:
        fault: "no verdict": the score, or the verdict that was asked for, is missing, unreadable or contradicted;
            "out of range": the score is none of those allowed; "" for none.
        score: as it is, fractions too; set also where it is out of range.
        verdict: "yes" or "no"; None where none was asked for.
    """

    fault: Literal["", "no verdict", "out of range"]
    score: float | None = None
    verdict: Verdict | None = None


def strict_qa(reply: str) -> Said:
    """The verdict and the score of 0 to 5 of a reply that holds one dictionary with 'pred' and 'score'.

    Python's and JSON's writing, any quotation marks, a code fence, words before and after, true and false, and numbers
    in quotation marks are all read. Two dictionaries that say different things are no verdict, and so is anything but
    yes, no, true and false under 'pred': "not sure" is no "no". What stands in <think> is not read.
    """
    whole = [said for said in _objects(reply) if "pred" in said and "score" in said]
    found = {(_yes_or_no(said["pred"]), _number(said["score"])) for said in whole}
    if len(found) != 1:
        return Said("no verdict")
    ((verdict, score),) = found
    if verdict is None or score is None:
        return Said("no verdict", score, verdict)
    return Said("" if 0 <= score <= 5 else "out of range", score, verdict)


def strict_score(reply: str) -> Said:
    """The score of 0 to 5 of a reply that holds one dictionary with 'score'; else as `strict_qa`."""
    return _one_score({_number(said["score"]) for said in _objects(reply) if "score" in said}, 0, 5)


_STATED = re.compile(r"^[^\w\n]*score\W*?[:=]\W*?([-+]?\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*5)?\W*$", re.I | re.M)


def strict_explained(reply: str) -> Said:
    """The score of 1 to 5 of a reply with a line "Score: 4"; lines that differ are no verdict."""
    return _one_score({_number(found) for found in _STATED.findall(_THINKING.sub(" ", reply))}, 1, 5)


def _one_score(found: set[float | None], low: float, high: float) -> Said:
    score = next(iter(found)) if len(found) == 1 else None
    if score is None:
        return Said("no verdict")
    return Said("" if low <= score <= high else "out of range", score)


_THINKING = re.compile(r"<think>.*?</think>", re.I | re.S)
_QUOTES = "\"'“”‘’`"
_PAIR = re.compile(
    rf"""\s*[{_QUOTES}]{{0,2}}(?P<key>\w+)[{_QUOTES}]{{0,2}}\s*:\s*
    (?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,{{}}"'\n]+)\s*(?P<end>[,}}])\s*""",
    re.X | re.S,
)


def _objects(reply: str) -> Iterator[dict[str, str]]:
    """The dictionaries of plain values in a text, values as text without quotation marks.

    One that says two things under one key is left with neither.
    """
    text = _THINKING.sub(" ", reply)
    at = text.find("{")
    while at >= 0:
        pairs, end = _pairs(text, at + 1)
        if pairs:
            yield {key: values.pop() if len(values) == 1 else "" for key, values in pairs.items()}
        at = text.find("{", max(end, at + 1))


def _pairs(text: str, at: int) -> tuple[dict[str, set[str]], int]:
    """Keys and values from behind a {, and the place behind its }; nothing where it is no dictionary."""
    found: dict[str, set[str]] = {}
    while pair := _PAIR.match(text, at):
        found.setdefault(pair["key"].casefold(), set()).add(pair["value"].strip().strip(_QUOTES).strip())
        at = pair.end()
        if pair["end"] == "}":
            return found, at
        if text.startswith("}", at):
            return found, at + 1
    return {}, 0


_VERDICTS: dict[str, Verdict] = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_NUMBER = re.compile(r"[-+]?\d{1,9}(?:\.\d{0,99})?", re.ASCII)


def _yes_or_no(said: str) -> Verdict | None:
    return _VERDICTS.get(said.casefold().rstrip(".!"))


def _number(said: str) -> float | None:
    return float(said) if _NUMBER.fullmatch(said) else None
