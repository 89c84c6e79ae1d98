"""The numbers and the picture of docs/rank_advantage.md.

    python -m perf.rank_advantage_plot [docs/images/rank_advantage.svg]

Prints every number that the page names, under the headings that it refers to, and draws the picture.
"""

import itertools
import sys
from collections.abc import Callable
from math import exp, log2
from pathlib import Path

import torch
from torch import Tensor

from models.rank_advantages import discounted_gain, policy_ranks, rank_advantages
from models.settings import DcgForm, RankBound, RankMode

MODES: tuple[RankMode, ...] = ("oracle", "paper", "signed", "tie_aware")
FORMS: tuple[DcgForm, ...] = ("written", "table", "log")
BOUNDS: tuple[RankBound, ...] = ("none", "clamp", "symmetric")
SIZE = 5
IN_ORDER = torch.arange(SIZE, dtype=torch.float64)[None]
REVERSED = IN_ORDER.flip(1)
# In the picture each mode has the gain that is its own: the paper's text, and the default here.
OWN: dict[RankMode, DcgForm] = {"oracle": "log", "paper": "written", "signed": "log", "tie_aware": "log"}
PRINTED = 0.9757  # The paper's nDCG of true rank 4 at predicted rank 3.
STEPS, RATE, GROUPS = 150, 0.2, 64
STARTS = {"the worst answer is the likeliest": -1.0, "the best answer is already the likeliest": 1.0}


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/rank_advantage.svg")
    gains()
    table()
    search()
    bounds()
    reversed_group()
    orders()
    ties()
    curves = learning()
    draw(path, curves)


def told(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:+.4f}" for value in values.flatten().tolist()) + "]"


def gains() -> None:
    print("\n# gains: what ranks 0 to 4 are worth")
    for form in FORMS:
        print(f"{form:8} {told(discounted_gain(IN_ORDER, form))}")


def table() -> None:
    print("\n# table: true rank 0, predicted 0 to 4; the paper prints nDCG 1, .7925, .6667, -, .5170")
    print("# and advantages .2887, .0812, -.0446, -, -.1943")
    for form in FORMS:
        gain = discounted_gain(IN_ORDER, form)
        print(f"nDCG       {form:8} {told(gain / gain[0, 0])}")
    for form in FORMS:
        print(f"advantages {form:8} {told(rank_advantages(IN_ORDER, mode='oracle', dcg=form))}")


def search() -> None:
    """Forms of DCG that one might have meant, with ranks from 0 and from 1, and ways to compare two of them."""
    forms: dict[str, Callable[[float], float]] = {
        "1 / ((1 + r) log2(2 + r))": lambda r: 1 / ((1 + r) * log2(2 + r)),
        "log2(2 + r) / (1 + r)": lambda r: log2(2 + r) / (1 + r),
        "1 / log2(2 + r)": lambda r: 1 / log2(2 + r),
        "1 / (1 + r)": lambda r: 1 / (1 + r),
        "1 / (1 + r)^2": lambda r: 1 / (1 + r) ** 2,
        "(5 - r) / log2(2 + r)": lambda r: (SIZE - r) / log2(2 + r),
        "(2^(5 - r) - 1) / log2(2 + r)": lambda r: (2 ** (SIZE - r) - 1) / log2(2 + r),
        "(2^(4 - r) - 1) / log2(2 + r)": lambda r: (2 ** (SIZE - 1 - r) - 1) / log2(2 + r),
        "5 - r": lambda r: SIZE - r,
        "exp(-r)": lambda r: exp(-r),
        "log2(2 + r)": lambda r: log2(2 + r),
    }
    ways: dict[str, Callable[[float, float], float]] = {
        "D(r') / D(r)": lambda true, found: found / true,
        "D(r) / D(r')": lambda true, found: true / found,
        "1 - |D(r) - D(r')|": lambda true, found: 1 - abs(true - found),
        "1 - (D(r) - D(r'))^2": lambda true, found: 1 - (true - found) ** 2,
    }
    found = []
    for (form, gain), (way, compare), first in itertools.product(forms.items(), ways.items(), (0, 1)):
        true, predicted = gain(4 + first), gain(3 + first)
        if true and predicted:  # A gain of 0 has no ratio.
            found.append(
                (abs(compare(true, predicted) - PRINTED), compare(true, predicted), f"{way}, D = {form}, {first}")
            )
    fits = sum(difference < 5e-5 for difference, _, _ in found)
    print(f"\n# search: true rank 4, predicted 3; {len(found)} forms tried, {fits} give {PRINTED}; the nearest:")
    for _, value, name in sorted(found)[:3]:
        print(f"{value:.4f}  {name} = the best's rank")
    published: tuple[DcgForm, ...] = ("written", "table")
    for form in published:
        ratio = float(discounted_gain(torch.tensor(3.0), form) / discounted_gain(torch.tensor(4.0), form))
        print(f"{form}: D(3) / D(4) = {ratio:.4f}, turned over {1 / ratio:.4f}")


def bounds() -> None:
    print("\n# bounds: delta of the worst response where the policy ranks it first, by each bound")
    for form in FORMS:
        ratio = float(discounted_gain(IN_ORDER, form)[0, 0] / discounted_gain(IN_ORDER, form)[0, -1])
        print(f"{form:8} none {1 - ratio:+.4f}  clamp {1 - min(ratio, 1.0):+.4f}  symmetric {1 - 1 / ratio:+.4f}")


def reversed_group() -> None:
    print("\n# reversed: advantages of true ranks 0 to 4, predicted 4 to 0")
    for form, bound in itertools.product(FORMS, BOUNDS):
        found = rank_advantages(IN_ORDER, REVERSED, mode="paper", dcg=form, bound=bound)
        print(f"paper {form:8} {bound:10} {told(found)}")
    both: tuple[RankMode, ...] = ("oracle", "signed")
    for mode, form in itertools.product(both, FORMS):
        print(f"{mode:6} {form:8} {told(rank_advantages(IN_ORDER, REVERSED, mode=mode, dcg=form))}")
    found = rank_advantages(IN_ORDER, dcg="log", standardise=True)
    print(f"the default (oracle, log, standardised): {told(found)}")


def orders() -> None:
    """What each mode does to the best and to the worst answer over all orders that a policy may have."""
    every = torch.tensor(list(itertools.permutations(range(SIZE))), dtype=torch.float64)
    true = IN_ORDER.expand_as(every)
    print(f"\n# orders: of the {len(every)} orders that a policy may give to {SIZE} answers, in how many is ...")
    print("mode   dcg      bound      best pushed down | worst pushed up | worst above best | nothing learned")
    settings: list[tuple[RankMode, RankBound]] = [("oracle", "none"), *(("paper", bound) for bound in BOUNDS)]
    for (mode, bound), form in itertools.product([*settings, ("signed", "none")], FORMS):
        found = rank_advantages(true, every, mode=mode, dcg=form, bound=bound)
        best, worst, none = found[:, 0], found[:, -1], found.abs().amax(1) < 1e-12
        counts = [(best < -1e-12), (worst > 1e-12), (worst > best + 1e-12), none]
        print(f"{mode:6} {form:8} {bound:10} " + " | ".join(f"{int(each.sum())}" for each in counts))


def ties() -> None:
    true = torch.tensor([[1.0, 1.0, 1.0, 3.0]], dtype=torch.float64)
    predicted = torch.tensor([[2.0, 0.0, 1.0, 3.0]], dtype=torch.float64)
    print("\n# ties: three equal answers and a worse one, the policy orders them 2, 0, 1, 3")
    for mode in ("oracle", "signed", "tie_aware"):
        print(f"{mode:9} {told(rank_advantages(true, predicted, mode=mode))}")


def learning() -> dict[str, dict[RankMode, list[float]]]:
    """A policy over five answers, by plain policy gradient: how good its answers are after each step (1: always best).

    A step draws groups of five from the policy; equal draws tie, for the oracle and for the policy.
    """
    print(f"\n# learning: mean goodness before and after {STEPS} steps of {GROUPS} groups, rate {RATE}, standardised")
    curves: dict[str, dict[RankMode, list[float]]] = {}
    for start, slope in STARTS.items():
        for mode in MODES:
            curves.setdefault(start, {})[mode] = curve = goodness(mode, slope)
            print(f"{start}: {mode:9} {OWN[mode]:8} {curve[0]:.3f} -> {curve[-1]:.3f}")
    return curves


def goodness(mode: RankMode, slope: float) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    logits = slope * torch.linspace(1, -1, SIZE, dtype=torch.float64)
    worth = torch.linspace(1, 0, SIZE, dtype=torch.float64)
    curve = [float(logits.softmax(0) @ worth)]
    for _ in range(STEPS):
        logprobs = logits.log_softmax(0)
        drawn = torch.multinomial(logprobs.exp(), GROUPS * SIZE, replacement=True, generator=generator)
        drawn = drawn.view(GROUPS, SIZE)
        true = policy_ranks(worth[drawn])  # The oracle's ranks are those of what the answers are worth.
        found = rank_advantages(true, policy_ranks(logprobs[drawn]), mode=mode, dcg=OWN[mode], standardise=True)
        pushed = torch.zeros(SIZE, dtype=torch.float64).index_add(0, drawn.flatten(), found.flatten())
        # Over a group advantages sum to 0, so that the gradient of the softmax's normaliser drops out.
        logits = logits + RATE * pushed / GROUPS
        curve.append(float(logits.softmax(0) @ worth))
    return curve


def draw(path: Path, curves: dict[str, dict[RankMode, list[float]]]) -> None:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    colours = dict(zip(MODES, ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=True))
    # The same file from the same numbers: no date, no random names.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rank", "font.size": 9, "font.family": "sans-serif"}):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        first, *others = figure.subplots(1, 3)
        for place, mode in enumerate(MODES[:3]):
            found = rank_advantages(IN_ORDER, REVERSED, mode=mode, dcg=OWN[mode], standardise=True)[0]
            at = torch.arange(SIZE) + 0.27 * (place - 1)
            first.bar(at.tolist(), found.tolist(), width=0.25, color=colours[mode], label=mode)
        first.set(title="Advantages where the policy's\norder is the oracle's reversed", xlabel="true rank, 0 = best")
        for axes, (start, modes) in zip(others, curves.items(), strict=True):
            for name, curve in modes.items():
                dashes = (0, (3, 2)) if name == "tie_aware" else "-"
                axes.plot(curve, color=colours[name], linestyle=dashes, label=name)
            axes.set(title=f"Learning from where\n{start}", xlabel="step", ylim=(0, 1.02), ylabel="goodness of answers")
        first.axhline(0, color="black", linewidth=0.8)
        first.set_ylabel("advantage, standardised")
        others[0].legend(frameon=False)
        for axes in (first, *others):
            axes.spines[["top", "right"]].set_visible(False)
        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})
    print(f"\ndrawn: {path}")


if __name__ == "__main__":
    main()
