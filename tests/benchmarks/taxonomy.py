"""A taxonomy of six words: entity > animal > (dog, cat), entity > thing > spoon."""

# Each word's way from the root.
WORDS = {
    "entity": ("entity",),
    "animal": ("entity", "animal"),
    "dog": ("entity", "animal", "pet", "dog"),
    "cat": ("entity", "animal", "pet", "cat"),
    "thing": ("entity", "thing"),
    "spoon": ("entity", "thing", "tool", "spoon"),
}


class Taxonomy:
    """`WordSimilarity` without data: blanks part tokens, and a final s is no part of a known word."""

    def tokens(self, text: str) -> list[str]:
        return text.split()

    def lemmas(self, text: str) -> list[str]:
        return [word[:-1] if word[:-1] in WORDS and word.endswith("s") else word for word in text.lower().split()]

    def similarity(self, first: str, second: str) -> float:
        """Wu and Palmer: twice the depth of the nearest common one over the sum of the depths."""
        one, other = WORDS.get(first, ()), WORDS.get(second, ())
        shared = sum(a == b for a, b in zip(one, other, strict=False))
        return 2 * shared / (len(one) + len(other)) if shared else 0.0
