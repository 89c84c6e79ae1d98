"""`rlaif score`, `rlaif compare` and `rlaif results` on files: a small benchmark, and the real ones of NExT-QA."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Call, FakeEndpoint, Said, completion
from quiz import known, questions, write_csv
from typer.testing import CliRunner

from flows.cli import app
from flows.presets import PresetError
from flows.score_command import endpoint_of

ITEMS = questions(12)


@pytest.fixture(autouse=True)
def quiz(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quiz among the benchmarks."""
    known(monkeypatch)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Annotations of 12 questions, one of them without an answer; replies to 9 of them and to one that is unknown."""
    csv = write_csv(tmp_path / "quiz.csv", ITEMS)
    with csv.open("a") as file:
        file.write("q999,v9,is it?,,odd\n")
    said = {each.id: each.answer for each in ITEMS[:6]} | {each.id: "maybe" for each in ITEMS[6:9]}
    return str(csv), replied(tmp_path / "said.json", said | {"q008": "", "q777": "yes"})


def replied(path: Path, said: dict[str, str]) -> str:
    path.write_text(json.dumps(said))
    return str(path)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def score(files: tuple[str, str], *options: str) -> str:
    return run("score", "quiz", "--annotations", files[0], "--predictions", files[1], *options)


def test_official_leaves_out_and_strict_counts(files: tuple[str, str]) -> None:
    official = score(files)
    assert "quiz · protocol official (as the official script, its faults included) · by rules" in official
    assert re.search(r"accuracy  overall +75\.00 +\S+ to \S+ +8 +4\n", official)
    strict = score(files, "--protocol", "strict")
    assert re.search(r"accuracy  overall +0\.5000 +\S+ to \S+ +12 +0\n", strict)
    assert "9 predictions; grades by status: ok 8, missing 3, empty 1" in strict


def test_every_fault_is_counted_and_listed_on_request(files: tuple[str, str]) -> None:
    few = score(files, "--faults", "1")
    assert "faults: missing 3, no answer 1, unknown 1" in few
    assert "  missing: 2 more; --faults all lists them" in few
    every = score(files, "--faults", "all")
    for item in ("q009", "q010", "q011"):
        assert f"  missing: {item}: there is no reply to it" in every
    assert "  no answer: q999: there is nothing to score against" in every
    assert "  unknown: q777: no question has this id" in every
    with pytest.raises(ValueError, match="'many' must be a number or all"):
        score(files, "--faults", "many")


def test_json_has_every_number_and_fault(files: tuple[str, str]) -> None:
    found = json.loads(score(files, "--json"))
    overall = next(each for each in found["metrics"] if each["group"] == "overall")
    assert (overall["value"], overall["n"], overall["left_out"], overall["printed"]) == (0.75, 8, 4, "75.00")
    assert overall["low"] <= 0.75 <= overall["high"]
    assert len(found["faults"]) == 5
    assert found["judge"] == ""


def test_numbers_that_no_item_counts_in_are_none(tmp_path: Path) -> None:
    nothing = str(write_csv(tmp_path / "quiz.csv", ITEMS)), replied(tmp_path / "said.json", {})
    assert json.loads(score(nothing, "--json"))["metrics"][0]["value"] is None
    assert re.search(r"accuracy  overall +- +0 +12\n", score(nothing))


def test_what_is_asked_wrongly_says_what_is_known(files: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"quiz knows no protocol 'lax'; known: official, strict, judged\."):
        score(files, "--protocol", "lax")
    with pytest.raises(ValueError, match="There is no benchmark 'quizz'"):
        run("score", "quizz", "--annotations", files[0], "--predictions", files[1])
    with pytest.raises(ValueError, match="quiz takes one annotation file; given"):
        score(files, "--annotations", files[0])
    with pytest.raises(ValueError, match="has no setting 'deep'"):
        score(files, "--set", "deep=1")


def test_scores_say_what_they_were_measured_with(files: tuple[str, str]) -> None:
    plain, other = score(files), score(files, "--set", "loud=true", "--split", "val")
    assert "frames and decoding not known" in plain
    assert "settings" not in plain
    assert "quiz · val · protocol official" in other
    assert "settings loud true" in other
    said = json.loads(score(files, "--set", "loud=true", "--split", "val", "--json"))
    assert (said["split"], said["settings"]) == ("val", {"loud": True})
    assert said["frames"] == said["decoding"] == "not known"
    compared = ("compare", "quiz", "--annotations", files[0], "--first", files[1], "--second", files[1])
    both = json.loads(run(*compared, "--split", "val", "--json"))
    assert both.items() >= {"split": "val", "settings": {}, "prompt_hash": said["prompt_hash"]}.items()
    assert "quiz · val · protocol official" in run(*compared, "--split", "val")


def test_scores_by_other_texts_for_the_judge_are_told_apart(tmp_path: Path) -> None:
    asked = tmp_path / "questions.json"
    asked.write_text(json.dumps([{"question": "who?", "answer": "a dog", "video_name": "v", "question_id": "1"}]))
    said = tmp_path / "said.json"
    said.write_text(json.dumps([{"id": "1", "question": "who?", "answer": "a dog", "pred": "a dog"}]))
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "qa_user.txt").write_text("Is {prediction} the same as {answer}?")
    command = ["score", "msvd_qa", "--annotations", str(asked), "--predictions", str(said), "--protocol", "strict"]
    with FakeEndpoint(lambda _: Said(completion("{'pred': 'yes', 'score': 4}"))) as endpoint:
        judge = tmp_path / "judge.yaml"
        judge.write_text(f"base_url: {endpoint.url}\nmodel: judge-1\n")
        command += ["--judge", str(judge), "--ledger", str(tmp_path / "ledger")]
        ours, own = ([*command, *more] for more in ([], ["--set", f"prompts={prompts}"]))
        titles = [run(*each).splitlines()[0] for each in (ours, own)]
        told = [json.loads(run(*each, "--json")) for each in (ours, own)]
    assert titles[0] != titles[1]
    assert told[0]["prompt_hash"] != told[1]["prompt_hash"]
    for title, each in zip(titles, told, strict=True):
        assert f"prompts {each['prompt_hash']}" in title
    assert told[0]["judge"] == told[1]["judge"]
    assert (told[0]["settings"], told[1]["settings"]) == ({}, {"prompts": str(prompts)})


def test_a_judge_is_asked_for_and_decides(files: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"8 of 12 grades of quiz by protocol 'judged' are a judge's, and none"):
        score(files, "--protocol", "judged")

    def reply(call: Call) -> Said:
        number = int(str(call.body["messages"][-1]["content"]).split("is it ")[1].split("?")[0])
        return Said(completion({6: "7", 7: "no idea"}.get(number, "4")))

    with FakeEndpoint(reply) as endpoint:
        settings = tmp_path / "judge.yaml"
        settings.write_text(f"base_url: {endpoint.url}\nmodel: judge-1\nreasks: 1\nprice_input: 1.0\n")
        options = ["--protocol", "judged", "--judge", str(settings), "--ledger", str(tmp_path / "ledger")]
        said = score(files, *options)
        calls = len(endpoint.calls)
        again = json.loads(score(files, *options, "--json"))
        assert len(endpoint.calls) == calls, "what was paid for once is not asked again"
        twin = replied(tmp_path / "twin.json", {each.id: each.answer for each in ITEMS[:8]})
        compared = ("compare", "quiz", "--annotations", files[0], "--first", files[1], "--second", twin)
        both = json.loads(run(*compared, *options, "--json"))
        made = len(endpoint.calls) - calls
        assert "judge: 0 calls, cost 0;" in run(*compared, *options)
    assert (both["judge_calls"], both["judge_cost"]) == (made, pytest.approx(made * 100e-6))
    assert made > 0
    assert "judge: 10 calls, cost 0.001;" in said
    assert (again["judge_calls"], again["judge_cost"]) == (0, 0)
    assert "judge_calls" not in json.loads(score(files, "--json"))
    assert calls == 8 + 2, "two replies could not be used and were asked for once more"
    assert "judge judge-1@" in said
    assert again["judge"].startswith("judge-1@")
    assert again["statuses"] == {"ok": 6, "missing": 3, "no verdict": 1, "out of range": 1, "empty": 1}
    values = {each["metric"]: each["value"] for each in again["metrics"] if each["group"] == "overall"}
    assert values == {"accuracy": 0.5, "score": 4.0}


def test_a_judge_is_priced_before_it_is_asked(files: tuple[str, str], tmp_path: Path) -> None:
    with FakeEndpoint(lambda _: Said(completion("no idea"))) as endpoint:
        settings = tmp_path / "judge.yaml"
        settings.write_text(
            f"base_url: {endpoint.url}\nmodel: judge-1\nreasks: 1\nprice_output: 1000\nmax_tokens: 10\n"
        )
        options = ["--protocol", "judged", "--judge", str(settings), "--ledger", str(tmp_path / "ledger")]
        told = score(files, *options, "--plan")
        found = json.loads(score(files, *options, "--plan", "--json"))
        assert not endpoint.calls
        assert not (tmp_path / "ledger").exists()
        score(files, *options)
        made = len(endpoint.calls)
    assert "judge judge-1: 8 calls, " in told
    assert "80 out, cost 0.08; at most 16 calls, cost 0.16" in told
    assert (found["calls"], found["most_calls"], found["cost"]) == (8, made, pytest.approx(0.08))
    assert "rules decide all" in score(files, "--judge", str(settings), "--plan")
    with pytest.raises(ValueError, match="name one with --judge"):
        score(files, "--protocol", "judged", "--plan")


def test_the_version_of_a_judge_that_answered_is_said(files: tuple[str, str], tmp_path: Path) -> None:
    named = ["judge-1-0125"]
    with FakeEndpoint(lambda _: Said({"model": named[-1], **completion("4")})) as endpoint:
        settings = tmp_path / "judge.yaml"
        settings.write_text(f"base_url: {endpoint.url}\nmodel: judge-1\n")
        options = ["--protocol", "judged", "--judge", str(settings), "--ledger", str(tmp_path / "ledger")]
        for _ in range(2):  # From its replies, then from those that the ledger has.
            found = json.loads(score(files, *options, "--json"))
            assert re.fullmatch(r"judge-1@\w+ answered by judge-1-0125", found["judge"])
        named.append("judge-1-1106")
        other = replied(tmp_path / "other.json", {each.id: f"{each.answer}!" for each in ITEMS})
        compared = ("compare", "quiz", "--annotations", files[0], "--first", files[1], "--second", other)
        with pytest.raises(ValueError, match=r"Two versions .* answered by judge-1-0125; .* answered by judge-1-1106"):
            run(*compared, *options)
        same = ("compare", "quiz", "--annotations", files[0], "--first", files[1], "--second", files[1])
        assert "answered by judge-1-0125" in run(*same, *options)


def test_a_judge_leaves_no_connection_open(files: tuple[str, str], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.append({str(Path(__file__).parents[1])!r})\n"
        "from flows.cli import app; import quiz; from benchmarks.registry import KNOWN\n"
        "sys.modules['benchmarks.quiz'] = quiz; KNOWN['quiz'] = ('quiz', 'Quiz'); app()"
    )
    with FakeEndpoint(lambda _: Said(completion("4"))) as endpoint:
        settings = tmp_path / "judge.yaml"
        settings.write_text(f"base_url: {endpoint.url}\nmodel: judge-1\n")
        options = ["--protocol", "judged", "--judge", str(settings), "--ledger", str(tmp_path / "ledger")]
        command = ["score", "quiz", "--annotations", files[0], "--predictions", files[1], *options]
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert "judge: 8 calls" in done.stdout
    assert "Unclosed" not in done.stderr


def test_a_judge_is_found_in_a_file_or_a_preset(tmp_path: Path) -> None:
    one = {"base_url": "http://localhost:1/v1", "model": "a"}
    preset = tmp_path / "preset.yaml"
    preset.write_text(json.dumps({"grading": {"endpoints": {"first": one}}}))
    assert endpoint_of(str(preset)).model == "a"
    preset.write_text(json.dumps({"grading": {"endpoints": {"first": one, "second": {**one, "model": "b"}}}}))
    assert endpoint_of(f"{preset}:second").model == "b"
    with pytest.raises(PresetError, match=r"has the endpoints first, second: name one of them, as \S+:first"):
        endpoint_of(str(preset))
    preset.write_text(json.dumps({**one, "modl": "b"}))
    with pytest.raises(PresetError, match="modl"):
        endpoint_of(str(preset))
    preset.write_text("run: {name: x}")
    with pytest.raises(PresetError, match="has no endpoint"):
        endpoint_of(str(preset))
    with pytest.raises(PresetError, match="There is no judge's file or preset"):
        endpoint_of("nowhere")


def test_compare_pairs_two_files(files: tuple[str, str], tmp_path: Path) -> None:
    better = replied(tmp_path / "better.json", {each.id: each.answer for each in ITEMS[1:]} | {"q000": "maybe"})
    options = ("compare", "quiz", "--annotations", files[0], "--first", files[1], "--second", better)
    said = run(*options, "--protocol", "strict", "--flips", "1")
    assert "said.json → better.json: 12 grades of both, 0 of one alone" in said
    assert re.search(r"all +5 +1 +6 +0 +0 +0\.12\n", said)
    assert re.search(r"accuracy  overall +0\.5000 +0\.9167 +\+0\.4167 ", said)
    assert "right → wrong: q000, true 'no': 'no' → 'maybe'" in said
    assert "wrong → right: 5 more" in said
    found = json.loads(run(*options, "--protocol", "strict", "--json"))
    assert found["verdicts"][0]["won"] == 6
    assert len(found["flips"]) == 7


def test_the_official_number_of_nextqa(test_data: Path) -> None:
    folder = test_data / "annotations" / "nextqa_mc"
    files = (str(folder / "val.csv.gz"), str(folder / "HGA-bert-ft-h256-val-example.json.gz"))
    options = ("score", "nextqa", "--annotations", files[0], "--predictions", files[1])
    assert re.search(r"accuracy  overall +49\.74 +\S+ to \S+ +4,996 +0\n", run(*options, "--protocol", "official"))
    strict = json.loads(run(*options, "--protocol", "strict", "--json"))
    overall = next(each for each in strict["metrics"] if each["group"] == "overall")
    right = sum(each["prediction"] == each["answer"] for each in predictions(files[1]).values())
    assert overall["value"] == right / 4996


def predictions(file: str) -> dict[str, dict[str, Any]]:
    with gzip.open(file) as opened:
        found: dict[str, dict[str, Any]] = json.load(opened)
    return found


def test_results_shows_published_numbers_without_any_of_ours(tmp_path: Path) -> None:
    page = tmp_path / "results.html"
    assert str(page) in run("results", "--to", str(page), "--benchmark", "msvd_qa")
    assert "re-run by others" in page.read_text()
    with pytest.raises(ValueError, match="There is no benchmark 'msvd'"):
        run("results", "--to", str(page), "--benchmark", "msvd")
    with pytest.raises(ValueError, match="is no file of scores"):
        run("results", str(tmp_path), "--to", str(page))


def test_rules_need_neither_torch_nor_ray_nor_prefect(files: tuple[str, str]) -> None:
    code = (
        f"import sys; sys.path.append({str(Path(__file__).parents[1])!r})\n"
        "from typer.testing import CliRunner; from flows.cli import app\n"
        "import quiz; from benchmarks.registry import KNOWN\n"
        "sys.modules['benchmarks.quiz'] = quiz; KNOWN['quiz'] = ('quiz', 'Quiz')\n"
        f"options = ['score', 'quiz', '--annotations', {files[0]!r}, '--predictions', {files[1]!r}]\n"
        "assert CliRunner().invoke(app, options).exit_code == 0\n"
        "print([name for name in ('torch', 'ray', 'prefect', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
