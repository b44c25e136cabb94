#!/bin/sh
# setup/timm.sh: installs timm and torchvision into .venv, with which transformers builds the vision tower of Gemma 3n.
# torchvision comes from the index of torch. One that belongs to another build of torch cannot be imported, and
# transformers would fail with it for every model: then both are removed again.
set -eu
cd "${0%/*}/.."
. setup/pip.sh

# Neither package is left without the other, or untried.
trap '"$python" -m pip uninstall --quiet --yes timm torchvision' EXIT
trap 'exit 1' INT TERM
install --no-deps --require-hashes --requirement trainer/timm.txt
install_like_torch "$(pin torchvision)"
if ! problem=$("$python" -c 'import timm' 2>&1); then
    echo "${problem##*
}" >&2 # the last line
    echo "torchvision was built for another torch than the one in .venv, and is removed again." >&2
    echo "Install both from one index: make clean, then make setup and make timm with the same TORCH_INDEX" >&2
    exit 1
fi
trap - EXIT
