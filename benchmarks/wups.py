"""WUPS: how alike two short answers are, word by word, in a taxonomy of words.

Measure: Malinowski and Fritz, arXiv 1410.0210: the product, over the words of one answer, of the greatest similarity to
a word of the other; of both directions the smaller. A similarity below the threshold counts a tenth. NExT-QA's
open-ended scorer (https://github.com/doc-doc/NExT-OE, metrics.py) compares the first senses of two words, and leaves
a word that is like none of the others out of the product, where by the definition it makes the product 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

BELOW = 0.1  # what a similarity below the threshold is multiplied by

# The stop words "tailored for NExT-QA", as lmms-eval ships them (tasks/nextqa/stopwords.csv): NLTK's without places,
# times, quantities and negations ("in", "before", "both", "no"). The original's own file was not at hand.
STOP_WORDS = frozenset((Path(__file__).parent / "stop_words.txt").read_text(encoding="utf-8").split())


@runtime_checkable
class WordSimilarity(Protocol):
    """A taxonomy of words."""

    def tokens(self, text: str) -> Sequence[str]:
        """The words and punctuation marks of a text."""
        ...

    def lemmas(self, text: str) -> Sequence[str]:
        """The tokens of a text in their basic forms, lower case."""
        ...

    def similarity(self, first: str, second: str) -> float:
        """Wu and Palmer's similarity of the first senses of two words, in [0, 1]; 0 where a word is unknown or no path
        joins the two.
        """
        ...


def official_wups(first: Sequence[str], second: Sequence[str], threshold: float, taxonomy: WordSimilarity) -> float:
    """WUPS as NExT-OE's script computes it: words without any likeness are left out; 0 where none is left."""
    return min(_lenient(first, second, threshold, taxonomy), _lenient(second, first, threshold, taxonomy))


def wups(first: Sequence[str], second: Sequence[str], threshold: float, taxonomy: WordSimilarity) -> float:
    """WUPS as it was defined: a word without any likeness makes it 0. No words are like no words alone."""
    if not first or not second:
        return float(not first and not second)
    return min(_product(first, second, threshold, taxonomy), _product(second, first, threshold, taxonomy))


def _lenient(words: Sequence[str], others: Sequence[str], threshold: float, taxonomy: WordSimilarity) -> float:
    found = [one for one in (_best(word, others, threshold, taxonomy) for word in words) if one]
    return _multiply(found) if found else 0.0


def _product(words: Sequence[str], others: Sequence[str], threshold: float, taxonomy: WordSimilarity) -> float:
    return _multiply([_best(word, others, threshold, taxonomy) for word in words])


def _multiply(values: Sequence[float]) -> float:
    product = 1.0
    for value in values:
        product *= value
    return product


def _best(word: str, others: Sequence[str], threshold: float, taxonomy: WordSimilarity) -> float:
    return max((_weighted(word, other, threshold, taxonomy) for other in others), default=0.0)


def _weighted(first: str, second: str, threshold: float, taxonomy: WordSimilarity) -> float:
    if first == second:
        return 1.0
    found = taxonomy.similarity(first, second)
    return found if found >= threshold else BELOW * found


def official_content(text: str, taxonomy: WordSimilarity) -> str:
    """The lemmas of a text without stop words, joined, as NExT-OE's script compares them."""
    return " ".join(lemma for lemma in taxonomy.lemmas(text) if lemma not in STOP_WORDS)


def content(text: str, taxonomy: WordSimilarity) -> list[str]:
    """The lemmas of a text without end tokens, punctuation and stop words; stop words stay where it has no others."""
    lemmas = [one for one in taxonomy.lemmas(text.replace("</s>", " ")) if any(letter.isalnum() for letter in one)]
    return [one for one in lemmas if one not in STOP_WORDS] or lemmas
