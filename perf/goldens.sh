#!/usr/bin/env bash
# Asks other libraries' own functions what they give for fixed small inputs, and writes tests/models/goldens/*.json,
# which tests/models/test_goldens.py holds our functions to. Builds an environment for each library in a temporary
# folder; no GPU is used.
#
#     bash perf/goldens.sh [verl] [trl-ppo] [trl] [openrlhf]
#
# Who gives what (each case in a file names its function):
#     verl      verl 0.9.1: trainer.ppo.core_algos (GAE, group advantages, losses, reductions, KL) and
#               utils.torch_functional (masked mean, whitening, entropy).
#     trl-ppo   TRL 0.11.4: PPOTrainer.compute_rewards, .compute_advantages and .loss, DPOTrainer.dpo_loss, and
#               trl.core (masked mean, whitening, entropy). Its PPO is the last that is told everything by arguments.
#     trl       TRL 1.16.0: RewardTrainer.compute_loss, DPOTrainer._compute_loss, GRPOTrainer._compute_loss, group
#               advantages of GRPOTrainer and RLOOTrainer, trainer.utils.entropy_from_logits.
#     openrlhf  OpenRLHF 0.11.2: models/loss.py and models/utils.py, loaded by path.
# verl and OpenRLHF are installed without their dependencies, which want a GPU; named here is what these files import.
#
# Prints what was written and whether it differs from what is committed. Fails when a library could not be asked; its
# file then stays as it was.
set -euo pipefail
cd "$(dirname "$0")/.."
source deployments/pip_settings.sh
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 RAY_USAGE_STATS_ENABLED=0
python=$PWD/.venv/bin/python
torch=2.13.0
declare -A alone=([verl]="verl==0.9.1" [openrlhf]="openrlhf==0.11.2")
declare -A packages=(
    [verl]="transformers==5.23.0 numpy pandas ray tensordict omegaconf hydra-core codetiming orjson"
    [trl-ppo]="trl==0.11.4 transformers==4.45.2 datasets==5.0.1 rich"
    [trl]="trl==1.16.0 transformers==5.23.0"
    [openrlhf]="numpy"
)
peers=("$@")
[ ${#peers[@]} -gt 0 ] || peers=(verl trl-ppo trl openrlhf)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HOME=$work/huggingface
"$python" -m venv "$work/uv"
"$work/uv/bin/python" -m pip install --quiet uv
uv_options "$work/uv/bin/python"

install() { # PEER: its environment
    local into=("$work/uv/bin/uv" pip install --quiet --python "$work/$1/bin/python" "${options[@]}")
    "$python" -m venv "$work/$1"
    # shellcheck disable=SC2086 - lists of words.
    "${into[@]}" "torch==$torch" ${packages[$1]} && { [ -z "${alone[$1]:-}" ] || "${into[@]}" --no-deps ${alone[$1]}; }
}

missing=() failed=()
for peer in "${peers[@]}"; do
    if ! install "$peer" 2>"$work/$peer.log"; then
        missing+=("$peer")
        echo "$peer: could not be installed: $(tail -n 5 "$work/$peer.log" | tr -s ' \n' ' ')"
    elif said=$("$work/$peer/bin/python" perf/golden_values.py "$peer" tests/models/goldens 2>"$work/$peer.log"); then
        echo "$peer (${alone[$peer]:-} ${packages[$peer]}): $(tail -n 1 <<<"$said")"
    else
        failed+=("$peer")
        echo "$peer: FAILED: $(tail -n 3 "$work/$peer.log" | tr -s ' \n' ' ')"
    fi
    rm -rf "${work:?}/$peer"
done
changed=$(git status --porcelain -- tests/models/goldens)
echo "${changed:-the committed files are as these libraries say}"
echo "failed: ${failed[*]:-none}; could not be installed: ${missing[*]:-none}"
[ ${#failed[@]} -eq 0 ] && [ ${#missing[@]} -eq 0 ]
