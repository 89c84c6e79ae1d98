"""WUPS on a taxonomy that fits on a hand, and NLTK's where it is there."""

import sys
import types
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taxonomy import WORDS, Taxonomy

from benchmarks.wordnet import DATA, NltkWords
from benchmarks.wups import STOP_WORDS, content, official_content, official_wups, wups
from storage.errors import FormatError

TAXONOMY = Taxonomy()


def both(first: str, second: str, threshold: float) -> tuple[float, float]:
    one, other = first.split(), second.split()
    return official_wups(one, other, threshold, TAXONOMY), wups(one, other, threshold, TAXONOMY)


@pytest.mark.parametrize(
    ("first", "second", "threshold", "official", "strict"),
    [
        ("dog", "dog", 0.9, 1.0, 1.0),
        ("dog", "cat", 0.0, 0.75, 0.75),
        ("dog", "cat", 0.9, 0.075, 0.075),
        ("dog cat", "dog", 0.0, 0.75, 0.75),
        ("dog", "dog cat", 0.0, 0.75, 0.75),
        ("dog animal", "cat", 0.0, 0.75 * 2 / 3, 0.75 * 2 / 3),
        # A word that is like no other: left out by the script, 0 by the definition.
        ("dog gently", "dog", 0.0, 1.0, 0.0),
        ("gently", "dog", 0.0, 0.0, 0.0),
        # An unknown word is still like itself.
        ("gently", "gently", 0.9, 1.0, 1.0),
        ("", "dog", 0.0, 0.0, 0.0),
        ("", "", 0.0, 0.0, 1.0),
    ],
)
def test_by_hand(first: str, second: str, threshold: float, official: float, strict: float) -> None:
    assert both(first, second, threshold) == pytest.approx((official, strict))


words = st.lists(st.sampled_from([*WORDS, "gently"]), max_size=4)


@given(words, words)
def test_properties(first: Sequence[str], second: Sequence[str]) -> None:
    for measure in (official_wups, wups):
        loose = measure(first, second, 0.0, TAXONOMY)
        assert 0.0 <= measure(first, second, 0.9, TAXONOMY) <= loose <= 1.0
        assert loose == pytest.approx(measure(second, first, 0.0, TAXONOMY))
        assert loose == pytest.approx(measure(first[::-1], second[::-1], 0.0, TAXONOMY))
        if first:
            assert measure(first, first, 0.9, TAXONOMY) == 1.0
    if first and second:
        assert wups(first, second, 0.0, TAXONOMY) <= official_wups(first, second, 0.0, TAXONOMY) + 1e-12


def test_contents() -> None:
    assert official_content("The dogs , it is .", TAXONOMY) == "dog , ."
    assert content("The dogs , it is .</s>", TAXONOMY) == ["dog"]
    assert official_content("it is", TAXONOMY) == ""
    assert content("it is", TAXONOMY) == ["it", "is"]
    assert content(" . ", TAXONOMY) == []


def test_the_stop_words_keep_places_quantities_and_negations() -> None:
    assert {"the", "is", "won't"} <= STOP_WORDS
    assert not {"in", "on", "before", "after", "no", "not", "both", "up", "down"} & STOP_WORDS
    assert len(STOP_WORDS) == 156


def test_without_nltk_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(FormatError, match=r"video-rlaif\[wups\]"):
        NltkWords("")


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"absent: is no folder.*nltk\.downloader -d"):
        NltkWords(str(tmp_path / "absent"))


def test_without_its_data_the_error_says_what_to_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def word_tokenize(text: str) -> list[str]:
        raise LookupError(f"punkt_tab not found: {text}")

    nltk = types.SimpleNamespace(word_tokenize=word_tokenize, pos_tag=mock.Mock(), data=types.SimpleNamespace(path=[]))
    stem = types.SimpleNamespace(PorterStemmer=mock.Mock(), WordNetLemmatizer=mock.Mock())
    corpus = types.SimpleNamespace(wordnet=None)
    for name, module in {"nltk": nltk, "nltk.corpus": corpus, "nltk.stem": stem}.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(FormatError, match=r"LookupError.*nltk\.downloader -d .* wordnet punkt_tab"):
        NltkWords(str(tmp_path))
    assert nltk.data.path == [str(tmp_path)]


def test_nltk_where_it_and_its_data_are_there() -> None:
    pytest.importorskip("nltk", reason="NLTK is an optional extra")
    try:
        taxonomy = NltkWords("")
    except FormatError as error:
        pytest.skip(f"NLTK's data ({', '.join(DATA)}) is not there: {error}")
    assert list(taxonomy.lemmas("The dogs were running")) == ["the", "dog", "be", "run"]
    assert taxonomy.similarity("dog", "cat") == pytest.approx(0.857, abs=0.01)
    assert taxonomy.similarity("dog", "xyzzy") == 0.0
