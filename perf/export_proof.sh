#!/usr/bin/env bash
# Proves that exports load where they are to be used: builds an environment for each library in a temporary folder,
# exports labels of a small real lake, and lets each library's own loader read them.
#
#     bash perf/export_proof.sh [trl] [llamafactory] [ms-swift] [verl]
#
# Prints which were proved and which not, and why. Fails unless all were; ALLOW_MISSING=1 forgives those that could not
# be installed, and no others. LLaVA-Hound and VLM-RLAIF are no packages; their files are read back by tests/storage
# alone.
set -euo pipefail
cd "$(dirname "$0")/.."
source deployments/pip_settings.sh
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 WANDB_MODE=disabled
python=$PWD/.venv/bin/python
torch=2.13.0
declare -A packages=(
    [trl]="trl==1.16.0 transformers==5.23.0 torchvision pillow"
    [llamafactory]="llamafactory==0.9.5"
    [ms-swift]="ms-swift==4.6.0"
    [verl]="verl==0.9.1 qwen-vl-utils torchvision"
)
peers=("$@")
[ ${#peers[@]} -gt 0 ] || peers=(trl llamafactory ms-swift verl)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HOME=$work/huggingface MODELSCOPE_CACHE=$work/modelscope
"$python" -m venv "$work/uv"
"$work/uv/bin/python" -m pip install --quiet uv
uv_options "$work/uv/bin/python"
"$python" -m perf.export_proof "$work/labels"

proved=() failed=() missing=()
for peer in "${peers[@]}"; do
    venv=$work/$peer
    "$python" -m venv "$venv"
    # shellcheck disable=SC2086 - a list of words.
    if ! "$work/uv/bin/uv" pip install --quiet --python "$venv/bin/python" "${options[@]}" \
        "torch==$torch" ${packages[$peer]} 2>"$work/$peer.log"; then
        missing+=("$peer")
        echo "$peer: could not be installed: $(tail -n 5 "$work/$peer.log" | tr -s ' \n' ' ')"
        continue
    fi
    # Beside a CPU build of torch the registry's torchaudio, linked to CUDA, fails at its import; it can do without.
    if "$venv/bin/python" -c 'import torch; raise SystemExit(torch.version.cuda is not None)'; then
        rm -f "$venv"/lib/python*/site-packages/torchaudio/lib/*.so
    fi
    if said=$("$venv/bin/python" perf/export_load.py "$peer" "$work/labels" miniature/weights/base 2>"$work/$peer.log"); then
        proved+=("$peer")
        echo "$peer: passed (${packages[$peer]}): $(tail -n 1 <<<"$said")"
    else
        failed+=("$peer")
        echo "$peer: FAILED (${packages[$peer]}): $(tail -n 3 "$work/$peer.log" | tr -s ' \n' ' ')"
    fi
    rm -rf "$venv"
done
echo "proved: ${proved[*]:-none}; failed: ${failed[*]:-none}; not proved, could not be installed: ${missing[*]:-none}"
[ ${#failed[@]} -eq 0 ] && { [ ${#missing[@]} -eq 0 ] || [ "${ALLOW_MISSING:-}" = 1 ]; }
