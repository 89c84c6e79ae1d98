"""Settings of benchmarks: a value of another type or a misspelt name is refused, never taken for something else."""

from typing import Any

import pytest

from benchmarks.custom import Custom
from benchmarks.registry import KNOWN, benchmark


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("msvd_qa", {"question": "plane"}, "must be 'plain' or 'lmms_eval', not 'plane'. Did you mean 'plain'?"),
        ("videomme", {"subtitles": "false"}, "subtitles must be true or false, not 'false'"),
        ("mvbench", {"official_folders": "false"}, "true or false"),
        ("mvbench", {"official_folders": 1}, "true or false"),
        ("tempcompass", {"judge": "false"}, "true or false"),
        ("custom", {"groups": "kind"}, "groups must be a list, each a text, not 'kind'"),
        ("custom", {"groups": ["kind", 3]}, "a list, each a text"),
        ("custom", {"scoring": "exactly"}, "Did you mean 'exact'?"),
        ("custom", {"prompt": None}, "a text"),
        ("retrieval", {"pool": "10"}, "a whole number"),
        ("retrieval", {"pool": True}, "a whole number"),
        ("retrieval", {"at": [1, "5"]}, "a list, each a whole number"),
        ("nextqa_open", {"words": "wordnet"}, "words must be a WordSimilarity or null"),
        ("videomme", {"subtitle": True}, "'videomme' has no setting 'subtitle'; did you mean 'subtitles'? It has: "),
        ("videomme", {"frames": 8}, "It has: subtitles (true or false), skip_missing (true or false)."),
        ("nextqa", {"source": "x"}, "has no setting 'source': it has none."),
    ],
)
def test_what_is_no_value_of_a_setting_is_refused(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=name) as refused:
        benchmark(name, **settings)
    assert said in str(refused.value)


def test_lists_are_taken_as_a_file_writes_them() -> None:
    assert benchmark("custom", groups=["kind"], scoring="exact") == Custom(groups=("kind",), scoring="exact")


@pytest.mark.parametrize("name", KNOWN)
def test_every_benchmark_is_made_without_settings(name: str) -> None:
    assert benchmark(name).name == name
