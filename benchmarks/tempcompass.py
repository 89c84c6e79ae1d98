"""TempCompass: whether a model sees action, direction, speed, order and change, in four kinds of task.

Multiple choice, yes or no, and matching of captions are graded by rules, and by a judge ("Correct" or "Incorrect")
where the rules find no answer. Captions are always judged: the judge answers a multiple choice by the caption.

"official" is TempCompass's eval_*.py: "</s>" goes, then the rules of benchmarks.tempcompass_rules. A judge that says
    neither word rates 0 when it has been asked often enough; one that gives nothing for a caption rates -1 at once, and
    that is summed. A prediction of null rates 0.
"lmms_eval": the rules without taking "</s>" away; what is not rated 1 is 0.
"vlmevalkit": likewise; unknown words of a judge rate 0 at once, -1 is summed.
"strict": rules that read a reply as a whole (no "Nothing" for "no"); what they do not settle a judge does; every item
    counts, and what has no verdict is wrong.
The scripts score one kind of task at a time; "overall", over all kinds, is VLMEvalKit's and ours.

The wording of the judge's prompts is ours: benchmarks/prompts/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks import judging
from benchmarks import tempcompass_rules as rules
from benchmarks.benchmark import check_protocol
from benchmarks.grades import Call, Grade, Graded
from benchmarks.items import Annotations, Item, Prediction, Predictions, Request, Shown
from benchmarks.metrics import Metric, mean, members
from benchmarks.tempcompass_files import TASKS, read_tempcompass, read_trees, write_trees
from storage.errors import FormatError

_SUFFIXES = {
    "multi-choice": "\nPlease directly give the best option:",
    "yes_no": "\nPlease answer yes or no:",
    "caption_matching": "\nPlease directly give the best option:",
    "captioning": "",  # The question ends in "Generated Caption:".
}
_KINDS = {
    "multi-choice": ("multi-choice", "Multi-Choice"),
    "yes_no": ("yes/no", "Yes/No"),
    "caption_matching": ("caption matching", "Caption Matching"),
}
_PROMPTS = ("tempcompass_system", "tempcompass_rating", "tempcompass_captioning")


@dataclass(frozen=True)
class TempCompass:
    """TempCompass.

    Attributes:
        judge: whether a judge decides what the rules do not; else that is wrong (`--disable_llm` of the scripts), and
            captioning cannot be scored.
        prompts: folder with texts for the judge that stand in for ours; "" for none.
    """

    judge: bool = True
    prompts: str = ""

    name: ClassVar[str] = "tempcompass"
    source: ClassVar[str] = "https://github.com/llyx97/TempCompass"
    protocols: ClassVar[tuple[str, ...]] = ("official", "lmms_eval", "vlmevalkit", "strict")
    files: ClassVar[Mapping[str, str]] = {
        "multi-choice": "questions/multi-choice.json; captioning needs it too",
        "yes_no": "questions/yes_no.json",
        "caption_matching": "questions/caption_matching.json",
        "captioning": "questions/captioning.json",
        "meta_info": "meta_info.json, for the fine aspects",
    }
    max_new_tokens: ClassVar[int] = 128
    temperature: ClassVar[float] = 0.0
    revision: ClassVar[int] = 2

    @property
    def texts(self) -> Mapping[str, str]:
        return {f"after {task}": text for task, text in _SUFFIXES.items()} | {
            name: judging.prompt(name, self.prompts) for name in _PROMPTS
        }

    def read(self, files: Mapping[str, Path]) -> Annotations:
        if not self.judge and "captioning" in files:
            raise FormatError(f"{files['captioning']}: captions are scored by a judge: leave the file out, or judge.")
        return read_tempcompass(files)

    def ask(self, item: Item, shown: Shown) -> tuple[Request, ...]:  # noqa: ARG002 - it asks the same of all
        return (Request(item.questions[0] + _SUFFIXES[item.groups["task"]]),)

    def grade(self, item: Item, aspect: str, prediction: Prediction | None, protocol: str) -> Grade | Call:  # noqa: ARG002
        check_protocol(self, protocol)
        strict = protocol == "strict"
        if prediction is None:
            return judging.wrong("missing") if strict else Grade("missing")
        reply = prediction.replies[0] if prediction.replies else None
        if reply is not None and protocol in ("official", "strict"):
            reply = reply.replace("</s>", "").strip()
        if reply is None or (strict and not reply):
            return judging.wrong("empty")
        if item.groups["task"] == "captioning":
            return self._caption_call(item, reply, protocol)
        ruled = _strict_rule(item, reply) if strict else _rule(item, reply)
        if ruled is not None:
            return ruled
        return self._rating_call(item, reply) if self.judge else judging.wrong("unparsed")

    def _caption_call(self, item: Item, reply: str, protocol: str) -> Call:
        asked = item.source["mc_question"] + ("\nAnswer:" if protocol == "lmms_eval" else "")
        return judging.call(_PROMPTS[0], _PROMPTS[2], self.prompts, question=asked, prediction=reply)

    def _rating_call(self, item: Item, reply: str) -> Call:
        kind, title = _KINDS[item.groups["task"]]
        said = {"question": item.questions[0], "answer": item.answer, "prediction": reply}
        return judging.call(_PROMPTS[0], _PROMPTS[1], self.prompts, kind=kind, title=title, **said)

    def judged(self, item: Item, aspect: str, reply: str, protocol: str) -> Grade:  # noqa: ARG002 - one aspect
        check_protocol(self, protocol)
        if item.groups["task"] == "captioning":
            return _strict_caption(item, reply) if protocol == "strict" else _caption(item, reply)
        rating = rules.strict_rating(reply) if protocol == "strict" else rules.rating(reply)
        if rating is None:
            return judging.wrong("unparsed" if protocol == "vlmevalkit" else "no verdict", judged=True)
        return _rated(rating, "Correct" if rating else "Incorrect", judged=True)

    def metrics(self, graded: Sequence[Graded], protocol: str) -> list[Metric]:
        """Accuracy over all, by kind of task, by dimension, and within a kind by dimension and fine aspect; and for
        each kind how often the rules found the answer. Of captions, which have no rules, the scripts print 0.
        """
        check_protocol(self, protocol)
        digits, scale = _PRINTED[protocol]
        found = []
        for group, each in _groups(graded).items():
            values = [_VALUES[protocol](one) for one in each]
            found.append(mean("accuracy", group, values, _videos(each), digits=digits, scale=scale))
        ruled = [one for one in graded if protocol != "strict" or one.item.groups["task"] != "captioning"]
        for task, each in members((one.item.groups["task"], one) for one in ruled).items():
            matched = [_matched(one) for one in each]
            found.append(mean("match success", f"task: {task}", matched, _videos(each), digits=digits, scale=scale))
        return found

    def write(self, folder: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Path]:
        return write_trees(folder, items, predictions)

    def read_predictions(self, files: Sequence[Path], items: Sequence[Item]) -> Predictions:
        return read_trees(files, items)


def _rule(item: Item, reply: str) -> Grade | None:
    """The grade by the published rules; None where they find no answer."""
    if item.groups["task"] == "yes_no":
        said = rules.yes_no(reply)
        return None if said is None else _rated(int(said == item.answer), said)
    try:
        if item.groups["task"] == "multi-choice":
            rating = rules.multi_choice(reply, item.answer)
        else:
            rating = rules.caption_matching(reply, item.questions[0], item.answer)
    except IndexError:  # Where the scripts stop: options of a form that they do not know.
        return Grade("unparsed")
    return None if rating is None else _rated(rating, reply)


def _strict_rule(item: Item, reply: str) -> Grade | None:
    question, task = item.questions[0], item.groups["task"]
    if task == "yes_no":
        said, right = rules.strict_yes_no(reply), item.answer.strip().casefold()
    elif task == "multi-choice":
        said, right = rules.strict_choice(reply, question), item.answer[:1]
        if said is not None and said not in rules.options_of(question):
            return judging.wrong("unparsed", parsed=said)
    else:
        said, right = rules.strict_caption_matching(reply, question), item.answer
    return None if said is None else _rated(int(said == right), said)


def _caption(item: Item, reply: str) -> Grade:
    choice = rules.captioning(reply.strip(), item.source["mc_answer"])
    if choice.rating < 0:
        # Not asked again, as calls that failed are: an empty reply is a rating to the scripts.
        return Grade("unparsed", False, -1.0, judged=True)
    return _rated(choice.rating, choice.answer, judged=True)


def _strict_caption(item: Item, reply: str) -> Grade:
    chosen = rules.strict_captioning(reply, item.source["mc_question"])
    if chosen is None:
        return judging.wrong("no verdict", judged=True)
    return _rated(int(chosen == item.source["mc_answer"][:1]), chosen or "none", judged=True)


def _rated(rating: int, parsed: str | None, *, judged: bool = False) -> Grade:
    return Grade("ok", rating == 1, float(rating), parsed, judged)


def _groups(graded: Sequence[Graded]) -> dict[str, list[Graded]]:
    """Groups in the order of the tasks, and within a task as the scripts print them."""
    by_task = members((one.item.groups["task"], one) for one in graded)
    found = {"overall": list(graded)}
    found |= {f"task: {task}": by_task[task] for task in TASKS if task in by_task}
    found |= members((f"dim: {one.item.groups['dim']}", one) for one in graded)
    for task, each in by_task.items():
        for name in ("dim", "aspect"):
            within = (
                (f"task: {task}, {name}: {one.item.groups[name]}", one) for one in each if name in one.item.groups
            )
            found |= members(within)
    return found


def _videos(graded: Sequence[Graded]) -> list[str]:
    return [one.item.video for one in graded]


def _summed(graded: Graded) -> float | None:
    """The rating as the scripts sum it: -1 for a caption about which the judge said nothing."""
    grade = graded.grade
    if grade.score is None and grade.status == "no verdict":
        return -1.0 if graded.item.groups["task"] == "captioning" else 0.0
    return grade.score


def _ones(graded: Graded) -> float | None:
    rating = _summed(graded)
    return None if rating is None else float(rating == 1)


def _strictly(graded: Graded) -> float:
    return judging.strict_verdict(graded.grade)


def _matched(graded: Graded) -> float | None:
    """Whether rules alone found the answer; None for no prediction."""
    grade = graded.grade
    return None if grade.status == "missing" else float(grade.status == "ok" and not grade.judged)


_VALUES: dict[str, Callable[[Graded], float | None]] = {
    "official": _summed,
    "lmms_eval": _ones,
    "vlmevalkit": _summed,
    "strict": _strictly,
}
# Digits and scale of what is printed.
_PRINTED: dict[str, tuple[int | None, float]] = {
    "official": (1, 100.0),
    "lmms_eval": (None, 100.0),
    "vlmevalkit": (2, 100.0),
    "strict": (None, 1.0),
}
