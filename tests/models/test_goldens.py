"""Our functions against other libraries' own, within 1e-6 in float32; gradients too, where the thing is a loss.

tests/models/goldens/*.json hold what verl 0.9.1, TRL 0.11.4 (its last PPO of the old kind), TRL 1.16.0 and OpenRLHF
0.11.2 gave, which function gave it and for which inputs (perf/goldens.sh asks them again). Where conventions differ,
ours stands first below, and the comparison is made where both must agree:

- Whitening divides by n (population), plus 1e-8. OpenRLHF does too; it whitens each row, so it was given one. verl and
  TRL divide by n - 1: ours times sqrt((n - 1) / n). They leave numbers at padding; only what counts is compared.
- `generalized_advantages` whitens nothing; verl and TRL whiten advantages: compared are ours whitened as above, and the
  returns, which nobody whitens. A hole in the mask ends a response, and what follows it stands alone; verl carries
  values and advantages across holes: what it gives with them is ours for the response closed up.
- Token rewards are 0 at padding; TRL and OpenRLHF leave -kl_coef * KL there, and mask later.
- verl's policy loss has a second clip (dual clip); it was set beyond reach. TRL 0.11 throws a batch away whose mean
  ratio is above 10; none is.
- GRPO divides by the unbiased deviation plus 1e-4, as TRL; verl adds 1e-6 and was asked with both.
- Loss reductions: token is verl's token-mean, TRL's bnpo and dapo; sequence is verl's seq-mean-token-mean, TRL's grpo;
  constant is verl's seq-mean-token-sum-norm, TRL's dr_grpo. A response without a token counts as one to us and to TRL,
  and not to verl and OpenRLHF: there is none here. (`dapo` was given the tokens of this batch as its divisor.)
- Bradley-Terry's centring is |mean(sum of a pair)| here, as published with VLM-RLAIF, and mean(sum squared) in TRL: the
  same where each pair sums to 1, so each rejected reward is 1 - chosen there. Soft labels are OpenRLHF's DPO with beta
  1, no reference and label smoothing 1 - preference.
- TRL 1.16 smooths no labels in its sigmoid DPO: smoothing is held to TRL 0.11.4 and OpenRLHF.
- The entropy bonus follows the reduction; in TRL it is always the mean over tokens: compared by token.

No library asked here has `k1_clamped` or rank advantages; the other tests hold those to their definitions.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.advantages import generalized_advantages, group_advantages, kl_per_token, token_rewards, whiten
from models.losses import bradley_terry, dpo, entropy, masked_mean, next_token_loss, policy_loss, value_loss
from models.reductions import Reduction

Given = dict[str, Tensor]
Settings = dict[str, Any]
FILES = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "goldens").glob("*.json"))}
CASES = [(file, name) for file, said in FILES.items() for name in said["cases"]]


def reduction(settings: Settings) -> Reduction:
    return Reduction(settings["reduction"], length=settings.get("length"))


def graded(loss_of: Callable[[Tensor], Any], at: Tensor) -> dict[str, Any]:
    """A loss, its gradient, and what the function returns beside it."""
    at = at.clone().requires_grad_()
    found = loss_of(at)
    loss, rest = found if isinstance(found, tuple) else (found, None)
    loss.backward()
    return {"loss": loss.detach(), "gradient": at.grad, "clipped": rest, "margin": rest}


def masked(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Given, Settings], Tensor]:
    return lambda given, _: function(given["values"], given["mask"])


def unbiased(values: Tensor, mask: Tensor) -> Tensor:
    """Whitening with n - 1."""
    count = mask.sum()
    return whiten(values, mask) * ((count - 1) / count).sqrt()


def kl(given: Given, settings: Settings) -> Tensor:
    return kl_per_token(given["new"], given["reference"], settings["estimator"])


def rewards(given: Given, settings: Settings) -> Tensor:
    difference = kl_per_token(given["new"], given["reference"], "k1")
    return token_rewards(given["scores"], difference, given["mask"], settings["kl_coef"])


def gae(given: Given, settings: Settings) -> dict[str, Tensor]:
    mask = given["mask"]
    advantages, returns = generalized_advantages(
        given["rewards"] * mask, given["values"], mask, settings["gamma"], settings["lam"]
    )
    return {"whitened": unbiased(advantages, mask), "returns": returns}


def gae_without_holes(given: Given, settings: Settings) -> dict[str, Tensor]:
    """Each response's tokens moved together, the result moved back to where they were."""
    holes = given["holes"].bool()
    together = torch.arange(holes.shape[1]) < holes.sum(1, keepdim=True)
    moved = {key: torch.zeros_like(given[key]).masked_scatter(together, given[key][holes]) for key in MOVED}
    found = gae(moved | {"mask": together.float()}, settings)
    return {key: torch.zeros_like(value).masked_scatter(holes, value[together]) for key, value in found.items()}


MOVED = ("rewards", "values")


def groups(given: Given, settings: Settings) -> Tensor:
    return group_advantages(given["groups"], **settings)


def reduced(given: Given, settings: Settings) -> Tensor:
    return reduction(settings)(given["values"], given["mask"])


def reduced_part(given: Given, settings: Settings) -> Tensor:
    """The last two responses on one of two workers. Theirs average gradients over workers, ours are added up."""
    whole = reduction(settings).count(given["mask"])
    part = Reduction(settings["reduction"], settings.get("length"), whole)
    return part(given["values"][2:], given["mask"][2:]) * settings["workers"]


def policy(given: Given, settings: Settings) -> dict[str, Any]:
    rest = given["old"], given["advantages"], given["mask"], settings["clip"], reduction(settings)
    return graded(lambda new: policy_loss(new, *rest), given["new"])


def value(given: Given, settings: Settings) -> dict[str, Any]:
    rest = given["old_values"], given["returns"], given["mask"], settings["clip"], reduction(settings)
    return graded(lambda new: value_loss(new, *rest), given["values"])


def next_token(given: Given, settings: Settings) -> dict[str, Any]:
    return graded(lambda new: next_token_loss(new, given["mask"], reduction(settings)), given["new"])


def group_loss(given: Given, settings: Settings) -> dict[str, Any]:
    """The sum that models/grpo.py makes; `values` stand for entropies."""
    reduce, mask = reduction(settings), given["mask"]

    def loss(new: Tensor) -> Tensor:
        surrogate, _ = policy_loss(new, given["old"], given["advantages"], mask, settings["clip"], reduce)
        divergence = reduce(kl_per_token(new, given["reference"], "k3"), mask)
        return surrogate + settings["kl_coef"] * divergence - settings["entropy_coef"] * reduce(given["values"], mask)

    return graded(loss, given["new"])


def pairs(given: Given, settings: Settings, margin: Tensor | None = None) -> dict[str, Any]:
    rejected, centering = given[settings.get("rejected", "rejected")], settings.get("centering", 0.0)
    return graded(lambda chosen: bradley_terry(chosen, rejected, centering, margin), given["chosen"])


def pairs_alone(given: Given, _: Settings) -> Tensor:
    each = zip(*(given[key][:, None] for key in ("chosen", "rejected", "preference")), strict=True)
    return torch.stack([bradley_terry(one, other, preference=label) for one, other, label in each])


def direct(given: Given, settings: Settings) -> dict[str, Any]:
    rest = given["policy_rejected"], given["reference_chosen"], given["reference_rejected"]
    return graded(lambda chosen: dpo(chosen, *rest, **settings), given["policy_chosen"])


# A case's own name first, else what stands before its slash.
OURS: dict[str, Callable[[Given, Settings], Any]] = {
    "masked_mean": masked(masked_mean),
    "whiten/population": masked(whiten),
    "whiten/unbiased": masked(unbiased),
    "entropy": lambda given, _: entropy(given["logits"]),
    "kl_per_token": kl,
    "token_rewards": rewards,
    "generalized_advantages": gae,
    "generalized_advantages/holes": gae_without_holes,
    "group_advantages": groups,
    "reduction": reduced,
    "reduction_of_part": reduced_part,
    "next_token_loss": next_token,
    "policy_loss": policy,
    "value_loss": value,
    "group_loss": group_loss,
    "bradley_terry": pairs,
    "bradley_terry/margin": lambda given, settings: pairs(given, settings, given["margin"]),
    "bradley_terry_each": pairs_alone,
    "dpo": direct,
}
# Where a library leaves something at padding that means nothing.
COMPARED = {
    "whiten/unbiased": "mask",
    "token_rewards": "mask",
    "generalized_advantages": "mask",
    "generalized_advantages/holes": "holes",
}


def largest_difference(ours: Any, theirs: Any, mask: Tensor | None) -> float:
    if isinstance(theirs, dict):
        return max(largest_difference(ours[key], each, mask) for key, each in theirs.items())
    difference = (torch.as_tensor(ours) - torch.tensor(theirs)).abs()
    return (difference if mask is None else difference[mask.bool()]).max().item()


@pytest.mark.parametrize(("file", "name"), CASES)
def test_ours_is_the_library_s_own(file: str, name: str) -> None:
    said = FILES[file]
    given = {key: torch.tensor(value) for key, value in said["inputs"].items()}
    case = said["cases"][name]
    ours = OURS.get(name) or OURS[name.split("/", 1)[0]]
    found = ours(given, case["settings"])
    mask = given[COMPARED[name]] if name in COMPARED else None
    difference = largest_difference(found, case["gives"], mask)
    assert difference <= 1e-6, f"{case['by']} of {said['oracle']} gives other numbers: {difference:.1e} apart"


def test_every_function_was_asked_of_a_library() -> None:
    asked = {name for _, name in CASES} | {name.split("/")[0] for _, name in CASES}
    assert not OURS.keys() - asked
    assert all(math.isfinite(number) for said in FILES.values() for number in numbers(said["cases"]))


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [each for part in value.values() for each in numbers(part)]
    if isinstance(value, list):
        return [each for part in value for each in numbers(part)]
    return [value] if isinstance(value, float) else []
