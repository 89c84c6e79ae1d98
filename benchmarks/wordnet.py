"""WordNet and the lemmas of NExT-QA's open-ended scorer, through NLTK and its data, both optional.

What the scorer calls: pywsd's lemmatize_sentence (NLTK's tokens, tags and WordNet lemmas, with Porter's stem where
WordNet does not know the lemma) and Wu and Palmer's similarity of first senses. Restated here, because pywsd itself
has moved on to another WordNet.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from storage.errors import FormatError

DATA = ("wordnet", "punkt_tab", "averaged_perceptron_tagger_eng")
# Penn Treebank's tags, by their first two letters, to WordNet's parts of speech.
_PARTS = {"NN": "n", "JJ": "a", "VB": "v", "RB": "r"}


@cache
def wordnet(folder: str) -> NltkWords:
    """NLTK's words, loaded once a process. `folder` holds NLTK's data; "": where NLTK looks by itself.

    Raises:
        FormatError: NLTK or a part of its data is missing; the text says what to run.
    """
    return NltkWords(folder)


class NltkWords:
    """`WordSimilarity` by NLTK. See `wordnet`."""

    def __init__(self, folder: str) -> None:
        if folder and not Path(folder).is_dir():
            raise FormatError(f"{folder}: is no folder; WUPS needs NLTK's data there. {_advice(folder)}")
        try:
            import nltk
            from nltk.corpus import wordnet as database
            from nltk.stem import PorterStemmer, WordNetLemmatizer
        except ImportError as error:
            raise FormatError(
                "WUPS needs NLTK, which is not installed: run `pip install 'video-rlaif[wups]'`."
            ) from error
        if folder and folder not in nltk.data.path:
            nltk.data.path.insert(0, folder)
        self._nltk: Any = nltk
        self._database: Any = database
        self._stem = PorterStemmer().stem
        self._base_form = WordNetLemmatizer().lemmatize
        self.similarity = lru_cache(maxsize=1_000_000)(self._similarity)
        self.tokens = lru_cache(maxsize=100_000)(self._tokens)
        self.lemmas = lru_cache(maxsize=100_000)(self._lemmas)
        self._senses = lru_cache(maxsize=200_000)(self._first_sense)
        try:
            self.lemmas("Two dogs. They ran.")
            self.similarity("dog", "cat")
        except (LookupError, OSError) as error:
            raise FormatError(
                f"WUPS needs data of NLTK's that is missing or damaged ({type(error).__name__}). {_advice(folder)}"
            ) from error

    def _tokens(self, text: str) -> tuple[str, ...]:
        return tuple(self._nltk.word_tokenize(text))

    def _lemmas(self, text: str) -> tuple[str, ...]:
        """The lemma of each token by its tag in the sentence; where that says nothing, by the word's tag alone."""
        tagged = self._nltk.pos_tag(self.tokens(text))
        return tuple(self._lemma(word.lower(), _PARTS.get(tag[:2], "")) for word, tag in tagged)

    def _lemma(self, word: str, part: str) -> str:
        if not part:
            part = _PARTS.get(self._nltk.pos_tag([word])[0][1][:2], "n")
        lemma: str = self._base_form(word, pos=part)
        if self._senses(lemma) is not None:
            return lemma
        stem: str = self._stem(word)
        return stem if self._senses(stem) is not None else word

    def _first_sense(self, word: str) -> Any:
        return next(iter(self._database.synsets(word)), None)

    def _similarity(self, first: str, second: str) -> float:
        one, other = self._senses(first), self._senses(second)
        if one is None or other is None:
            return 0.0
        return one.wup_similarity(other) or 0.0


def _advice(folder: str) -> str:
    where = f"-d {folder} " if folder else ""
    return (
        f"Where there is a network run `python -m nltk.downloader {where}{' '.join(DATA)}`, "
        "then name the folder in the setting `word_data`."
    )
