#!/usr/bin/env bash
# Installs the project with its development tools into the virtual environment $1, at the versions of constraints.txt.
# uv where it can be had, plain pip otherwise. uv does not read pip's configuration: what pip has configured is handed
# over, else uv would miss a folder of wheels and take the CUDA build of torch.
set -euo pipefail
venv=$1
pip=("$venv/bin/python" -m pip)

configured() { # NAME: the words of pip's setting NAME, one a line
    "${pip[@]}" config list 2>/dev/null | grep -E "^(global|install|:env:)\.$1=" | head -n 1 |
        cut -d= -f2- | tr -d "'\"" | sed 's/\\n/ /g' | tr -s ' ' '\n' | grep . || true
}

if ! "${pip[@]}" install --quiet uv; then
    echo "uv cannot be installed here; installing with pip (slower)."
    exec "${pip[@]}" install --quiet -c constraints.txt -e '.[dev]'
fi

options=()
for setting in find-links index-url; do
    while read -r value; do
        options+=("--$setting" "$value")
    done < <(configured "$setting")
done
if ! "$venv/bin/uv" pip install --python "$venv/bin/python" "${options[@]}" -c constraints.txt -e '.[dev]'; then
    echo "uv could not install the project; trying pip (slower)."
    "${pip[@]}" install --quiet -c constraints.txt -e '.[dev]'
fi
