# To be sourced. uv does not read pip's configuration: what pip has configured is handed over, else uv would miss a
# folder of wheels and take the CUDA build of torch.

configured() { # PYTHON NAME: the words of pip's setting NAME, one a line
    "$1" -m pip config list 2>/dev/null | grep -E "^(global|install|:env:)\.$2=" | head -n 1 |
        cut -d= -f2- | tr -d "'\"" | sed 's/\\n/ /g' | tr -s ' ' '\n' | grep . || true
}

uv_options() { # PYTHON: fills the array `options` with pip's settings as uv names them
    local setting value
    options=()
    for setting in find-links index-url; do
        while read -r value; do
            options+=("--$setting" "$value")
        done < <(configured "$1" "$setting")
    done
}
