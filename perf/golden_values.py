"""What other libraries' own functions give for fixed small inputs, in that library's environment (perf/goldens.sh).

    python golden_values.py verl|trl-ppo|trl|openrlhf FOLDER

Imports nothing of the project. Each case in the file names the function that gave its numbers (`by`), its settings, and
under `note` a convention that differs from ours. Inputs are seeded, float32, with three decimals; padding holds random
numbers too, so that a mask read the wrong way round shows. tests/models/test_goldens.py holds our functions to this.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # OpenRLHF compiles its entropy; the plain function gives the same.

import torch
from torch import Tensor

Given = dict[str, Tensor]
Cases = dict[str, dict[str, Any]]

LENGTHS = [6, 3, 1, 4]  # Tokens of each response; a single one among them.
CLIP, VALUE_CLIP, GAMMA, LAM, KL_COEF, BETA, SMOOTHING, CONSTANT = 0.2, 0.3, 0.97, 0.9, 0.1, 0.3, 0.1, 9
REDUCTIONS = {"token": {}, "sequence": {}, "constant": {"length": CONSTANT}}
NEVER = 1e6  # verl's second clip (dual-clip PPO), of which we have none.
UNBIASED = "divides by n - 1; ours by n"
UNMASKED = "padding is not masked: compare the tokens that count"


def main() -> None:
    """Ask one library and write down what it says."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    given = {key: (value * 1000).round() / 1000 for key, value in inputs().items()}
    package = "trl" if name == "trl-ppo" else name
    version = importlib.metadata.version(package)
    cases = ORACLES[name](given)
    parts = {
        "oracle": json.dumps(f"{package} {version}"),
        "torch": json.dumps(importlib.metadata.version("torch").split("+")[0]),
        "inputs": a_line_each({key: plain(value, 3) for key, value in given.items()}),
        "cases": a_line_each(cases),
    }
    path = folder / f"{package}-{version}.json"
    path.write_text("{\n" + ",\n".join(f' "{key}": {value}' for key, value in parts.items()) + "\n}\n")
    print(f"{len(cases)} cases: {', '.join(cases)}")


def inputs() -> Given:
    """The same for every library."""
    generator = torch.Generator().manual_seed(20)
    rows, width = len(LENGTHS), max(LENGTHS)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    old, pairs = -drawn(rows, width).abs() - 0.5, 5
    chosen = drawn(pairs)
    return {
        "mask": (torch.arange(width) < torch.tensor(LENGTHS)[:, None]).float(),
        "holes": torch.tensor([[1, 1, 0, 0, 1, 1], [1, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 1], [1, 0, 0, 0, 0, 1.0]]),
        "old": old,
        "new": old + drawn(rows, width) * 0.25,
        "reference": old + drawn(rows, width) * 0.25,
        "advantages": drawn(rows, width),
        "old_values": drawn(rows, width),
        "values": drawn(rows, width),
        "returns": drawn(rows, width),
        "rewards": drawn(rows, width),
        "scores": drawn(rows),
        "logits": drawn(rows, width, 5),
        # A group like any other, one of little contrast, and one of none.
        "groups": torch.stack([drawn(4), 0.002 * drawn(4), torch.full((4,), 0.5)]),
        "chosen": chosen,
        "rejected": drawn(pairs),
        "opposite": 1 - chosen,
        "margin": drawn(pairs).abs(),
        "preference": torch.tensor([1.0, 0.9, 0.75, 0.5, 0.25]),
        "policy_chosen": 5 * drawn(pairs) - 20,
        "policy_rejected": 5 * drawn(pairs) - 20,
        "reference_chosen": 5 * drawn(pairs) - 20,
        "reference_rejected": 5 * drawn(pairs) - 20,
    }


def plain(value: Any, digits: int | None = None) -> Any:
    """Numbers that JSON can hold, exact for float32."""
    if isinstance(value, Tensor):
        return plain(value.detach().tolist(), digits)
    if isinstance(value, dict):
        return {key: plain(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, digits) for each in value]
    return value if isinstance(value, int | str) else float(f"{value:.9g}") if digits is None else round(value, digits)


def a_line_each(values: dict[str, Any]) -> str:
    return "{\n" + ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in values.items()) + "\n }"


def case(by: str, gives: Any, note: str = "", **settings: Any) -> dict[str, Any]:
    """One answer of a library."""
    said = {"by": by, "settings": settings, "gives": plain(gives)}
    return said | {"note": note} if note else said


def graded(loss_of: Callable[[Tensor], Any], at: Tensor) -> dict[str, Any]:
    """A loss with its gradient; `loss_of` may return more behind the loss, which must be the share that was clipped."""
    at = at.clone().requires_grad_()
    found = loss_of(at)
    loss, *rest = found if isinstance(found, tuple) else (found,)
    loss.backward()
    said = {"loss": loss, "gradient": at.grad}
    return said | {"clipped": rest[0]} if rest else said


def verl(given: Given) -> Cases:
    from verl.trainer.ppo import core_algos as algos
    from verl.utils import torch_functional as functional

    module, helpers, mask = "verl.trainer.ppo.core_algos", "verl.utils.torch_functional", given["mask"]
    white = functional.masked_whiten(given["values"], mask)
    cases = {
        "masked_mean": case(f"{helpers}.masked_mean", functional.masked_mean(given["values"], mask)),
        "entropy": case(f"{helpers}.entropy_from_logits", functional.entropy_from_logits(given["logits"])),
        "whiten/unbiased": case(f"{helpers}.masked_whiten", white, UNBIASED),
    }
    for estimator in ("k1", "k3"):
        said = algos.kl_penalty(given["new"], given["reference"], estimator)
        cases[f"kl_per_token/{estimator}"] = case(f"{module}.kl_penalty", said, estimator=estimator)
    for name, held in {"generalized_advantages": mask, "generalized_advantages/holes": given["holes"]}.items():
        white, returns = algos.compute_gae_advantage_return(given["rewards"], given["values"], held, GAMMA, LAM)
        note = f"advantages whitened, {UNBIASED}; carried across holes, which end a response of ours"
        said = {"whitened": white, "returns": returns}
        cases[name] = case(f"{module}.compute_gae_advantage_return", said, note, gamma=GAMMA, lam=LAM)
    cases |= verl_groups(given, module, algos)
    for name in REDUCTIONS:
        cases |= verl_losses(given, module, algos, name)
    return cases


def verl_losses(given: Given, module: str, algos: Any, name: str) -> Cases:
    """The losses by one reduction, and that reduction of the last two responses, on one of two workers."""
    from verl.workers.config import ActorConfig

    modes = {"token": "token-mean", "sequence": "seq-mean-token-mean", "constant": "seq-mean-token-sum-norm"}
    mask, mode, settings = given["mask"], modes[name], {"reduction": name, **REDUCTIONS[name]}
    scale = {"loss_scale_factor": CONSTANT} if name == "constant" else {}
    whole = {"dp_size": 2, "batch_num_tokens": int(mask.sum()), "global_batch_size": len(LENGTHS)}
    config = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio=CLIP, clip_ratio_c=NEVER
    )
    config.global_batch_info.update(scale)

    def policy(new: Tensor) -> tuple[Tensor, float]:
        loss, metrics = algos.compute_policy_loss_vanilla(given["old"], new, given["advantages"], mask, mode, config)
        return loss, metrics["actor/pg_clipfrac"]

    def value(new: Tensor) -> Tensor:
        return algos.compute_value_loss(new, given["returns"], given["old_values"], mask, VALUE_CLIP, mode, **scale)[0]

    batch = algos.agg_loss(given["values"], mask, mode, **scale)
    part = algos.agg_loss(given["values"][2:], mask[2:], mode, **whole, **scale)
    losses = graded(policy, given["new"]), graded(value, given["values"])
    by, note = f"{module}.compute_policy_loss_vanilla", "its second clip (dual clip) set beyond reach"
    return {
        f"reduction/{name}": case(f"{module}.agg_loss", batch, **settings),
        f"reduction_of_part/{name}": case(f"{module}.agg_loss", part, workers=2, **settings),
        f"policy_loss/{name}": case(by, losses[0], note, clip=CLIP, **settings),
        f"value_loss/{name}": case(f"{module}.compute_value_loss", losses[1], clip=VALUE_CLIP, **settings),
    }


def verl_groups(given: Given, module: str, algos: Any) -> Cases:
    """Advantages over groups; verl wants a score for each token and hands back an advantage for each."""
    size = given["groups"].shape[1]
    scores = given["groups"].reshape(-1, 1)
    index = torch.arange(len(given["groups"])).repeat_interleave(size).numpy()
    one = torch.ones_like(scores)

    def shaped(found: tuple[Tensor, Tensor]) -> Tensor:
        return found[0].view(-1, size)

    grpo, by = algos.compute_grpo_outcome_advantage, f"{module}.compute_grpo_outcome_advantage"
    cases = {
        f"group_advantages/grpo {epsilon:.0e}": case(
            by, shaped(grpo(scores.clone(), one, index, epsilon=epsilon)), kind="grpo", epsilon=epsilon
        )
        for epsilon in (1e-6, 1e-4)
    }
    said = shaped(grpo(scores.clone(), one, index, norm_adv_by_std_in_grpo=False))
    cases["group_advantages/dr_grpo"] = case(by, said, kind="dr_grpo")
    said = shaped(algos.compute_rloo_outcome_advantage(scores.clone(), one, index))
    by = f"{module}.compute_rloo_outcome_advantage"
    cases["group_advantages/rloo"] = case(by, said, kind="rloo")
    return cases


def trl_ppo(given: Given) -> Cases:
    """TRL 0.11.4: methods of its old PPOTrainer and DPOTrainer, called with stubs that hold their settings."""
    from trl import core

    mask = given["mask"]
    return {
        "masked_mean": case("trl.core.masked_mean", core.masked_mean(given["values"], mask)),
        "entropy": case("trl.core.entropy_from_logits", core.entropy_from_logits(given["logits"])),
        "whiten/unbiased": case("trl.core.masked_whiten", core.masked_whiten(given["values"], mask), UNBIASED),
        **trl_old_ppo(given),
        **trl_old_dpo(given),
    }


def trl_old_ppo(given: Given) -> Cases:
    from trl.trainer.ppo_trainer import PPOTrainer

    mask, config = given["mask"], {"kl_penalty": "kl", "whiten_rewards": False, "vf_coef": 1.0, "ratio_threshold": 10.0}
    config |= {"gamma": GAMMA, "lam": LAM, "cliprange": CLIP, "cliprange_value": VALUE_CLIP}
    stub = types.SimpleNamespace(config=types.SimpleNamespace(**config), kl_ctl=types.SimpleNamespace(value=KL_COEF))
    stub._kl_penalty = types.MethodType(PPOTrainer._kl_penalty, stub)
    rewards, _, kl = PPOTrainer.compute_rewards(stub, given["scores"], given["new"], given["reference"], mask)
    _, white, returns = PPOTrainer.compute_advantages(stub, given["values"], given["rewards"], mask)
    gae = {"whitened": white, "returns": returns}

    def losses(new: Tensor, values: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        sampled = [given[key] for key in ("old", "old_values", "logits")]
        return PPOTrainer.loss(stub, *sampled, values, new, mask, given["advantages"], given["returns"])

    def policy(new: Tensor) -> tuple[Tensor, Tensor]:
        loss, _, stats = losses(new, given["values"])
        return loss, stats["policy/clipfrac"]

    policies, values = graded(policy, given["new"]), graded(lambda v: losses(given["new"], v)[1], given["values"])
    by, note = "trl.trainer.ppo_trainer.PPOTrainer", f"advantages whitened, {UNBIASED}"
    return {
        "kl_per_token/k1": case(f"{by}._kl_penalty", kl, estimator="k1"),
        "token_rewards": case(f"{by}.compute_rewards", rewards, UNMASKED, kl_coef=KL_COEF),
        "generalized_advantages": case(f"{by}.compute_advantages", gae, note, gamma=GAMMA, lam=LAM),
        "policy_loss/token": case(f"{by}.loss", policies, clip=CLIP, reduction="token"),
        "value_loss/token": case(f"{by}.loss", values, clip=VALUE_CLIP, reduction="token"),
    }


def trl_old_dpo(given: Given) -> Cases:
    from trl.trainer.dpo_trainer import DPOTrainer

    stub = types.SimpleNamespace(beta=BETA, reference_free=False, loss_type="sigmoid", f_divergence_type="reverse_kl")
    stub.accelerator = types.SimpleNamespace(device="cpu")
    rest = [given[key] for key in ("policy_rejected", "reference_chosen", "reference_rejected")]
    cases = {}
    for smoothing in (0.0, SMOOTHING):
        stub.label_smoothing = smoothing
        said = graded(lambda chosen: DPOTrainer.dpo_loss(stub, chosen, *rest)[0].mean(), given["policy_chosen"])
        _, chosen, rejected = DPOTrainer.dpo_loss(stub, given["policy_chosen"], *rest)
        said["margin"] = chosen - rejected
        by = "mean of trl.trainer.dpo_trainer.DPOTrainer.dpo_loss"
        cases[f"dpo/{smoothing}"] = case(by, said, beta=BETA, label_smoothing=smoothing)
    return cases


def trl(given: Given) -> Cases:
    """TRL 1.16: methods of its trainers, called with stubs that hold their settings and a model's output."""
    from trl.trainer.utils import entropy_from_logits

    said = entropy_from_logits(given["logits"])
    return {
        "entropy": case("trl.trainer.utils.entropy_from_logits", said),
        **trl_reward(given),
        **trl_dpo(given),
        **trl_grpo(given),
        **trl_groups(given),
    }


def alone() -> types.SimpleNamespace:
    """An accelerator of one process."""
    same = lambda value, **_: value  # noqa: E731
    return types.SimpleNamespace(
        device="cpu", num_processes=1, process_index=0, gather=same, gather_for_metrics=same, reduce=same
    )


def evaluating(**settings: Any) -> types.SimpleNamespace:
    """A trainer that evaluates: its losses are then those of the batch, undivided by accumulation steps."""
    model = types.SimpleNamespace(training=False, is_gradient_checkpointing=False)
    return types.SimpleNamespace(
        model=model,
        accelerator=alone(),
        aux_loss_enabled=False,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
        **settings,
    )


def trl_reward(given: Given) -> Cases:
    from trl import RewardTrainer

    def loss(centring: float | None, rejected: Tensor, chosen: Tensor, **margin: Tensor) -> Tensor:
        rewards = torch.cat([chosen, rejected])[:, None]
        stub = evaluating(args=types.SimpleNamespace(center_rewards_coefficient=centring))
        return RewardTrainer.compute_loss(stub, lambda **_: types.SimpleNamespace(logits=rewards), dict(margin))

    by, chosen, rejected = "trl.RewardTrainer.compute_loss", given["chosen"], given["rejected"]
    note = "centres the mean of the squared sums of a pair, ours the mean sum: the same where each pair's sum is 1"
    return {
        "bradley_terry/plain": case(by, graded(lambda x: loss(None, rejected, x), chosen)),
        "bradley_terry/margin": case(by, graded(lambda x: loss(None, rejected, x, margin=given["margin"]), chosen)),
        "bradley_terry/centring": case(
            by, {"loss": loss(0.01, given["opposite"], chosen)}, note, rejected="opposite", centering=0.01
        ),
    }


def trl_dpo(given: Given) -> Cases:
    """Log-probabilities of one token a response, so that their sum over tokens is the given one."""
    from trl import DPOTrainer

    stub = evaluating(beta=BETA, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl")
    stub.loss_types, stub.loss_weights, stub.use_weighting = ["sigmoid"], [1.0], False
    two = len(given["policy_chosen"]) * 2
    batch = {"input_ids": torch.zeros(two, 2, dtype=torch.long), "completion_mask": torch.tensor([[0, 1]] * two)}
    batch["ref_chosen_logps"], batch["ref_rejected_logps"] = given["reference_chosen"], given["reference_rejected"]

    def loss(chosen: Tensor) -> Tensor:
        one = torch.zeros(two, 1)
        logprobs = torch.cat([chosen, given["policy_rejected"]])[:, None]
        said = types.SimpleNamespace(log_probs=logprobs, entropy=one, mean_logits=one, is_top1=one.bool())
        return DPOTrainer._compute_loss(stub, lambda **_: said, dict(batch), False)

    by = "trl.DPOTrainer._compute_loss"
    return {"dpo/0.0": case(by, graded(loss, given["policy_chosen"]), beta=BETA, label_smoothing=0.0)}


def trl_grpo(given: Given) -> Cases:
    """GRPO's loss in each of its reductions: the clipped surrogate alone, with k3, and once with an entropy bonus."""
    cases, kinds = {}, {"grpo": "sequence", "bnpo": "token", "dapo": "token", "dr_grpo": "constant"}
    by = "trl.GRPOTrainer._compute_loss, loss_type="
    for kind, reduction in kinds.items():
        settings = {"clip": CLIP, "reduction": reduction, **REDUCTIONS[reduction]}
        cases[f"policy_loss/{kind}"] = case(by + kind, trl_grpo_loss(given, kind), **settings)
        settings |= {"kl_coef": BETA, "entropy_coef": 0.0}
        cases[f"group_loss/{kind}"] = case(by + kind, trl_grpo_loss(given, kind, beta=BETA), **settings)
    said = trl_grpo_loss(given, "bnpo", beta=BETA, entropy_coef=0.05)
    note = "its entropy is always the mean over the tokens, ours follows the reduction; `values` stand for entropies"
    settings = {"clip": CLIP, "reduction": "token", "kl_coef": BETA, "entropy_coef": 0.05}
    cases["group_loss/entropy"] = case(f"{by}bnpo", said, note, **settings)
    return cases


def trl_grpo_loss(given: Given, kind: str, beta: float = 0.0, entropy_coef: float = 0.0) -> dict[str, Any]:
    from trl import GRPOTrainer

    mask = given["mask"]
    batch = {
        "prompt_ids": torch.zeros(len(LENGTHS), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(LENGTHS), 1),
        "completion_ids": torch.zeros_like(mask).long(),
        "completion_mask": mask,
        "old_per_token_logps": given["old"],
        "ref_per_token_logps": given["reference"],
        "advantages": given["advantages"],
        "num_items_in_batch": mask.sum(),
    }
    args = types.SimpleNamespace(delta=None, use_bias_correction_kl=False)
    stub = evaluating(loss_type=kind, beta=beta, entropy_coef=entropy_coef, max_completion_length=CONSTANT, args=args)
    stub.epsilon_low = stub.epsilon_high = CLIP
    stub._entropy_bonus_enabled, stub.use_adaptive_entropy, stub.use_vllm = entropy_coef > 0, False, False
    stub.importance_sampling_level, stub.top_entropy_quantile, stub.off_policy_mask_threshold = "token", 1.0, None

    def loss(new: Tensor) -> Tensor:
        stub._get_per_token_logps_and_entropies = lambda *_, **__: (new, given["values"], None)
        return GRPOTrainer._compute_loss(stub, None, dict(batch))

    return graded(loss, given["new"])


def trl_groups(given: Given) -> Cases:
    """Advantages as TRL computes them between generating and learning; generation and reward functions are stubs."""
    from trl import GRPOTrainer, RLOOTrainer

    count = given["groups"].numel()
    ids, texts, by = [[1]] * count, ["c"] * count, "trl.{}._generate_and_score_completions"
    cases, generated = {}, (ids, ids, None, texts, None, {}, None, None)
    for kind, scale in {"grpo": "group", "dr_grpo": "none"}.items():
        settings = {"multi_objective_aggregation": "sum_then_normalize", "scale_rewards": scale}
        said = trl_advantages(given, GRPOTrainer, generated, **settings)
        scaled = f"{by.format('GRPOTrainer')}, scale_rewards={scale}"
        cases[f"group_advantages/{kind}"] = case(scaled, said, kind=kind, epsilon=1e-4)
    settings = {"reward_clip_range": None, "normalize_advantages": False}
    said = trl_advantages(given, RLOOTrainer, (ids, ids, texts), **settings)
    cases["group_advantages/rloo"] = case(by.format("RLOOTrainer"), said, kind="rloo")
    return cases


def trl_advantages(given: Given, trainer: Any, generated: tuple[Any, ...], **settings: Any) -> Tensor:
    """Much of TRL's method is about pictures, tools and logs; all of that is off, and a mock takes what is logged."""
    count, size = given["groups"].numel(), given["groups"].shape[1]
    steps = {"steps_per_generation": 1, "gradient_accumulation_steps": 1, "per_device_eval_batch_size": count}
    known = vars(evaluating(**settings)) | {
        "args": types.SimpleNamespace(**steps, gradient_checkpointing_kwargs=None),
        "num_generations_eval": size,
        "num_iterations": 1,
        "beta": 0.0,
        "reward_weights": torch.ones(1),
        "reward_funcs": [None],
        "reward_func_names": ["given"],
        "_logs": defaultdict(MagicMock),
        "_pending_extra_logs": {},
        "_pending_metrics": {},
    }
    known |= dict.fromkeys(("pad_to_multiple_of", "environment_factories", "environments", "tools"))
    known |= dict.fromkeys(("mask_truncated_completions", "use_vllm"), False)
    stub = MagicMock()
    for key, value in known.items():
        setattr(stub, key, value)
    stub._tokenizer.pad_token_id = 0
    stub._generate.return_value = generated
    stub._calculate_rewards.return_value = given["groups"].reshape(-1, 1)
    stub._get_per_token_logps_and_entropies.return_value = (torch.zeros(count, 1), None, None)
    found = trainer._generate_and_score_completions(stub, [{"prompt": "p"}] * count)
    return found["advantages"].view(-1, size)


def openrlhf(given: Given) -> Cases:
    """OpenRLHF's files models/loss.py and models/utils.py alone; the package around them wants a GPU's libraries."""
    sys.modules["deepspeed"] = types.ModuleType("deepspeed")  # For one function that is not called.
    package = sys.modules["openrlhf_models"] = types.ModuleType("openrlhf_models")
    package.__path__ = [str(importlib.metadata.distribution("openrlhf").locate_file("openrlhf/models"))]
    utils, loss = (importlib.import_module(f"openrlhf_models.{name}") for name in ("utils", "loss"))

    by, mask = "openrlhf.models.utils", given["mask"]
    k1, k3 = (utils.compute_approx_kl(given["new"], given["reference"], kl_estimator=each) for each in ("k1", "k3"))
    rewards = utils.compute_reward(given["scores"], KL_COEF, k1, mask)
    white = utils.masked_normalize(given["values"].reshape(1, -1), mask.reshape(1, -1)).view_as(mask)
    cases = {
        "masked_mean": case(f"{by}.masked_mean", utils.masked_mean(given["values"], mask)),
        "entropy": case(f"{by}.compute_entropy", utils.compute_entropy(given["logits"])),
        "whiten/population": case(f"{by}.masked_normalize", white, "all responses as one row"),
        "token_rewards": case(f"{by}.compute_reward", rewards, UNMASKED, kl_coef=KL_COEF),
        "kl_per_token/k1": case(f"{by}.compute_approx_kl", k1, estimator="k1"),
        "kl_per_token/k3": case(f"{by}.compute_approx_kl", k3, estimator="k3"),
    }
    for name in ("token", "sequence"):
        cases |= openrlhf_losses(given, "openrlhf.models.loss", loss, name)
    return cases | openrlhf_pairs(given, "openrlhf.models.loss", loss)


def openrlhf_losses(given: Given, module: str, loss: Any, name: str) -> Cases:
    """The losses by one reduction, and that reduction of the last two responses, on one of two workers."""
    mask, by_token = given["mask"], {"token_level_loss": name == "token"}
    whole = {"dp_size": 2, "batch_num_tokens": float(mask.sum()), "global_batch_size": float(len(LENGTHS))}
    of = loss.SFTLoss(**by_token), loss.PolicyLoss(CLIP, CLIP, **by_token), loss.ValueLoss(VALUE_CLIP, **by_token)
    next_token = graded(lambda new: of[0](new, mask), given["new"])
    policy = graded(lambda new: of[1](new, given["old"], given["advantages"], mask)[:2], given["new"])
    value = graded(lambda new: of[2](new, given["old_values"], given["returns"], mask), given["values"])
    batch = loss.aggregate_loss(given["values"], mask, **by_token)
    part = loss.aggregate_loss(given["values"][2:], mask[2:], **by_token, **whole)
    return {
        f"reduction/{name}": case(f"{module}.aggregate_loss", batch, reduction=name),
        f"reduction_of_part/{name}": case(f"{module}.aggregate_loss", part, reduction=name, workers=2),
        f"next_token_loss/{name}": case(f"{module}.SFTLoss", next_token, reduction=name),
        f"policy_loss/{name}": case(f"{module}.PolicyLoss", policy, clip=CLIP, reduction=name),
        f"value_loss/{name}": case(f"{module}.ValueLoss", value, clip=VALUE_CLIP, reduction=name),
    }


def openrlhf_pairs(given: Given, module: str, loss: Any) -> Cases:
    pairwise, chosen, rejected = loss.PairWiseLoss(), given["chosen"], given["rejected"]
    cases = {
        "bradley_terry/plain": case(f"{module}.PairWiseLoss", graded(lambda x: pairwise(x, rejected), chosen)),
        "bradley_terry/margin": case(
            f"{module}.PairWiseLoss", graded(lambda x: pairwise(x, rejected, given["margin"]), chosen)
        ),
    }
    zero = torch.zeros(1)
    # Soft labels are DPO's smoothing with beta 1 and no reference; a label of its own for each pair, so pair by pair.
    each = [
        loss.DPOLoss(1.0, label_smoothing=1 - label)(chosen[i : i + 1], rejected[i : i + 1], zero, zero)[0].item()
        for i, label in enumerate(given["preference"].tolist())
    ]
    note = "beta 1, no reference, label smoothing 1 - preference, each pair alone"
    cases["bradley_terry_each/soft"] = case(f"{module}.DPOLoss", each, note)
    rest = [given[key] for key in ("policy_rejected", "reference_chosen", "reference_rejected")]
    for smoothing in (0.0, SMOOTHING):
        of = loss.DPOLoss(BETA, label_smoothing=smoothing)
        said = graded(lambda x, of=of: of(x, *rest)[0], given["policy_chosen"])
        _, one, other = of(given["policy_chosen"], *rest)
        said["margin"] = one - other
        cases[f"dpo/{smoothing}"] = case(f"{module}.DPOLoss", said, beta=BETA, label_smoothing=smoothing)
    return cases


ORACLES: dict[str, Callable[[Given], Cases]] = {"verl": verl, "trl-ppo": trl_ppo, "trl": trl, "openrlhf": openrlhf}

if __name__ == "__main__":
    main()
