# setup/pip.sh: functions of the scripts that install packages into .venv. They source it in the project's folder.
python=.venv/bin/python

pin() { # "torch==2.13.0" for torch
    sed -n "s/^ *\"\($1==[^\"]*\)\",.*/\1/p" pyproject.toml
}

install() {
    "$python" -m pip install --disable-pip-version-check "$@"
}

install_like_torch() { # one package from the index of torch, alone, so that no other package chooses its build
    index=$(setup/torch_index.sh "$python" "$(pin torch)")
    install --no-deps ${index:+--index-url "$index"} "$1"
}
