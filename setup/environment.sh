#!/bin/sh
# setup/environment.sh NAME: creates .venv if it is missing or unusable, and installs gemtune with the packages of
# setup/locked/NAME.txt. pip checks the hash of every file but torch's, whose hashes differ between indexes.
set -eu
name=$1
cd "${0%/*}/.."
. setup/pip.sh

version='import platform; print(platform.python_version())'
minor='import sys; print("%d.%d" % sys.version_info[:2])'

can_be_used() { # whether .venv runs, has pip, and is a supported Python: the one of $PYTHON, if that is set
    "$python" -c 'import pip' 2>/dev/null && PYTHON=$python setup/interpreter.sh >/dev/null 2>&1 || return 1
    [ -z "${PYTHON:-}" ] || [ "$("$python" -c "$minor")" = "$("$base" -c "$minor")" ]
}

make_environment() {
    rm -rf .venv
    if "$base" -c 'import venv, ensurepip' 2>/dev/null; then
        "$base" -m venv .venv
    elif "$base" -c 'import virtualenv' 2>/dev/null; then
        "$base" -m virtualenv --quiet .venv
    else
        echo "$base cannot create a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2
        echo "(python3.12-venv if python3.12 is from another source). Elsewhere: $base -m pip install virtualenv" >&2
        return 1
    fi
}

base=$(setup/interpreter.sh)
if ! can_be_used; then
    echo "creating .venv with $base, Python $("$base" -c "$version")"
    make_environment
fi
echo "installing the packages of setup/locked/$name.txt into .venv"
torch=$(pin torch)
install_like_torch "$torch"
install --no-deps --require-hashes --requirement "setup/locked/$name.txt"
install --constraint constraints.txt "$torch" # a build for CUDA requires CUDA's libraries, at exact versions
install --quiet --no-deps --no-build-isolation --editable .
