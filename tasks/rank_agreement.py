"""How far two rankers agree: Kendall's tau-b of every group that both ranked."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tasks.intervals import Interval, bootstrap_mean

Row = Mapping[str, Any]


def kendall_tau_b(ranks: ArrayLike, others: ArrayLike) -> float | None:
    """Kendall's rank correlation with ties (tau-b) of two rankings [n] of the same answers.

    tau_b = sum_{i<j} s_ij t_ij / sqrt(sum_{i<j} s_ij^2 * sum_{i<j} t_ij^2), with s and t the signs of the differences
    of ranks. 1: the same order, -1: the reverse, None where one ranking ties all answers, so that it is not defined.
    https://en.wikipedia.org/wiki/Kendall_rank_correlation_coefficient#Tau-b
    """
    s, t = (np.sign(np.subtract.outer(each, each)) for each in (np.asarray(ranks), np.asarray(others)))
    decided = float((s**2).sum()) * float((t**2).sum())
    return float((s * t).sum()) / math.sqrt(decided) if decided else None


@dataclass(frozen=True)
class RankAgreement:
    """Two rankers on the groups that both ranked.

    Attributes:
        tau: mean of the groups' tau-b with its 95 % bootstrap interval, videos resampled; None without such groups.
        groups: groups that both ranked.
        undefined: those of them that one ranker calls all equal: they have no tau-b and are not in the mean.
    """

    tau: Interval | None
    groups: int
    undefined: int


def rank_agreement(rows: Sequence[Row], others: Sequence[Row], *, seed: int = 0) -> RankAgreement:
    """The agreement of two rankers from their rows of table `rankings`.

    Raises:
        ValueError: they ranked other candidates of the same instruction.
    """
    one, two = _groups(rows), _groups(others)
    taus: list[float] = []
    videos: list[str] = []
    shared = [instruction for instruction in one if instruction in two]
    for instruction in shared:
        first, second = one[instruction], two[instruction]
        texts, other_texts = ({number: row["text"] for number, row in each.items()} for each in (first, second))
        if texts != other_texts:
            raise ValueError(
                f"The rankers ranked other candidates of instruction {instruction!r}: compare rankings of one "
                "candidates stage."
            )
        tau = kendall_tau_b([first[number]["rank"] for number in texts], [second[number]["rank"] for number in texts])
        if tau is not None:
            taus.append(tau)
            videos.append(next(iter(first.values()))["video"])
    mean = bootstrap_mean(taus, videos, seed=seed) if taus else None
    return RankAgreement(mean, len(shared), len(shared) - len(taus))


def _groups(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    """The ranked rows by instruction and candidate."""
    groups: defaultdict[str, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        if row["status"] == "ok":
            groups[row["instruction"]][row["candidate"]] = row
    return groups
