#!/usr/bin/env bash
# Installs the project with its development tools into the virtual environment $1, at the versions of constraints.txt.
# uv where it can be had, plain pip otherwise.
set -euo pipefail
venv=$1
pip=("$venv/bin/python" -m pip)
source "$(dirname "$0")/pip_settings.sh"

if ! "${pip[@]}" install --quiet uv; then
    echo "uv cannot be installed here; installing with pip (slower)."
    exec "${pip[@]}" install --quiet -c constraints.txt -e '.[dev]'
fi

uv_options "$venv/bin/python"
# Compiled now, as pip does: where Python may not write bytecode (PYTHONDONTWRITEBYTECODE, as in many images for
# containers), each of a run's dozen processes would compile torch and transformers anew, some 10 s of its core.
if ! "$venv/bin/uv" pip install --python "$venv/bin/python" --compile-bytecode "${options[@]}" -c constraints.txt -e '.[dev]'; then
    echo "uv could not install the project; trying pip (slower)."
    "${pip[@]}" install --quiet -c constraints.txt -e '.[dev]'
fi
