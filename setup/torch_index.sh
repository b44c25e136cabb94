#!/bin/sh
# setup/torch_index.sh PYTHON TORCH [CPU_INDEX]: prints the index from which pip should install this torch, or nothing
# for pip's usual index. Prints the reason to standard error.
#
# PyPI has one build of torch for Linux, which is for CUDA. PyTorch's own index has one for CPUs, which suffices without
# an NVIDIA GPU. $TORCH_INDEX, if it is set, overrides the choice.
set -eu
python=$1
torch=$2
cpu_index=${3:-https://download.pytorch.org/whl/cpu}

has_nvidia_gpu() {
    [ -e /proc/driver/nvidia/version ] || nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

# Queries only this index, with pip, so that pip's proxies and certificates are used. The environment variables replace
# the settings of pip's configuration files.
cpu_index_has_torch() {
    echo "looking for $torch in $cpu_index" >&2
    PIP_EXTRA_INDEX_URL=$cpu_index PIP_FIND_LINKS=/dev/null "$python" -m pip --retries 0 --timeout 30 index versions \
        --index-url "$cpu_index" torch 2>/dev/null | grep '^Available versions:' | grep -qwF "${torch#torch==}"
}

if [ -n "${TORCH_INDEX:-}" ]; then
    echo "$torch comes from $TORCH_INDEX, as TORCH_INDEX says" >&2
    echo "$TORCH_INDEX"
elif [ "$(uname -s)" != Linux ]; then
    echo "$torch comes from pip's usual index" >&2
elif has_nvidia_gpu; then
    echo "$torch comes from pip's usual index: this machine has an NVIDIA GPU. On PyPI it is the build for CUDA, 3 GB" >&2
elif cpu_index_has_torch; then
    echo "$torch comes from $cpu_index: this machine has no NVIDIA GPU" >&2
    echo "$cpu_index"
else
    echo "$cpu_index has no $torch for this Python or cannot be reached:" >&2
    echo "it comes from pip's usual index. On PyPI it is the build for CUDA, 3 GB" >&2
fi
