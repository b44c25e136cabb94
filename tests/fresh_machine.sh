#!/usr/bin/env bash
# Runs the commands of the README on a bare system: a Debian that debootstrap creates in a folder, with only Python,
# python3-venv, make, git and certificates, and a clone of the last commit of this checkout.
#
#   tests/fresh_machine.sh [--suite trixie] [--command 'make demo']… [--folder FOLDER] [--bind FOLDER]… [--reuse]
#
# --suite    the release of Debian: trixie has Python 3.13, forky 3.14, bookworm 3.11
# --command  what to run in the clone, in this order; without it, `make demo` and `make test`
# --folder   the folder of the system, about 4 GB without and 12 GB with torch's build for CUDA; it is deleted first,
#            and kept afterwards
# --bind     a folder of this machine to mount at the same path of the system; folders of packages in pip's
#            configuration are always mounted
# --reuse    reuse the system of an earlier run with its environment, at the last commit
#
# Needs root, debootstrap and a network. The system uses this machine's host names, certificates, proxies and pip
# configuration, and the mirror of its apt. Everything is mounted in a namespace that ends with this script, so nothing
# stays mounted.
set -euo pipefail

checkout=$(cd "$(dirname "$0")/.." && pwd)
suite=trixie folder=/var/tmp/gemtune-fresh-machine reuse=no
commands=() binds=()
while [ $# -gt 0 ]; do
    case $1 in
        --suite) suite=$2 && shift 2 ;;
        --command) commands+=("$2") && shift 2 ;;
        --folder) folder=$2 && shift 2 ;;
        --bind) binds+=("$2") && shift 2 ;;
        --reuse) reuse=yes && shift ;;
        *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2 && exit 2 ;;
    esac
done
[ ${#commands[@]} -gt 0 ] || commands=("make demo" "make test")

fail() {
    echo "$*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "creating a system in a folder needs root: sudo $0 …"
[ -n "$(command -v debootstrap)" ] || fail "this needs debootstrap: apt-get install debootstrap"
if [ "${GEMTUNE_OWN_MOUNTS:-}" != yes ]; then
    unshare --mount true 2>/dev/null || fail "this needs its own mount namespace, which is not permitted here"
    arguments=(--suite "$suite" --folder "$folder")
    for command in "${commands[@]}"; do arguments+=(--command "$command"); done
    for bind in ${binds[@]+"${binds[@]}"}; do arguments+=(--bind "$bind"); done
    [ "$reuse" = no ] || arguments+=(--reuse)
    exec env GEMTUNE_OWN_MOUNTS=yes unshare --mount --propagation private "$0" "${arguments[@]}"
fi

mirror() { # the first mirror of apt that is not for security updates
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null \
        | sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' \
        | grep '/debian/\{0,1\}$' | head -1 || true
}

package_folders() { # folders that pip takes packages from; for an index, the folder above its links
    python3 -m pip config list 2>/dev/null | tr -s "'\" " '\n' \
        | sed -n 's|^file://\(/.*\)/simple/\{0,1\}$|\1|p; s|^file://\(/.*\)|\1|p; s|^\(/.*\)|\1|p' | sort -u \
        | while read -r place; do [ ! -d "$place" ] || echo "$place"; done
}

make_system() {
    [ -z "$(ls -A "$folder" 2>/dev/null)" ] || [ -d "$folder/debootstrap" ] || [ -f "$folder/etc/debian_version" ] \
        || fail "$folder is not empty, and this script has not created it: use another --folder"
    rm -rf "$folder"
    mkdir -p "$folder"
    script=/usr/share/debootstrap/scripts/$suite
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid # a release that debootstrap does not know yet
    echo "creating a minimal Debian $suite in $folder"
    debootstrap --variant=minbase --include=python3,python3-venv,make,git,ca-certificates \
        "$suite" "$folder" "$(mirror)" "$script" >"$folder.log" 2>&1 || fail "debootstrap failed; see $folder.log"
    git clone --quiet "$checkout" "$folder/root/gemtune"
}

share_settings() { # network and pip settings of this machine
    for file in /etc/resolv.conf /etc/hosts /etc/pip.conf "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf" \
        "${PIP_CERT:-}" "${PIP_CONFIG_FILE:-}" "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}"; do
        if [ -f "$file" ]; then
            place=$file
            case $file in "$HOME"/*) place=/root/${file#"$HOME"/} ;; esac
            mkdir -p "$folder$(dirname "$place")"
            cp --dereference "$file" "$folder$place"
        fi
    done
    [ ! -d /etc/xdg/pip ] || cp -r /etc/xdg/pip "$folder/etc/xdg/"
}

mount_all() {
    mount -t proc proc "$folder/proc"
    mount --rbind /sys "$folder/sys"
    mount --rbind /dev "$folder/dev"
    while read -r place; do
        [ -n "$place" ] || continue
        mkdir -p "$folder$place"
        mount --bind -o ro "$place" "$folder$place"
        echo "mounted $place"
    done < <(printf '%s\n' ${binds[@]+"${binds[@]}"}; package_folders)
}

inside() {
    settings=$(env | grep -E '^(PIP_[A-Z_]*|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|(https?|no)_proxy|(HTTPS?|NO)_PROXY|TORCH_INDEX)=' || true)
    mapfile -t settings <<<"$settings"
    chroot "$folder" /usr/bin/env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        LANG=C.UTF-8 TERM="${TERM:-dumb}" ${settings[0]:+"${settings[@]}"} sh -c "$1"
}

update_system() {
    [ -d "$folder/root/gemtune" ] || fail "there is no system to reuse in $folder"
    git -C "$folder/root/gemtune" fetch --quiet "$checkout" HEAD
    git -C "$folder/root/gemtune" reset --quiet --hard FETCH_HEAD
}

if [ "$reuse" = yes ]; then update_system; else make_system; fi
share_settings
mount_all
# shellcheck disable=SC2016
inside '. /etc/os-release && echo "$PRETTY_NAME, $(python3 --version), $(make --version | head -1), $(git --version)"'
for command in "${commands[@]}"; do
    echo "== $command"
    began=$SECONDS
    code=0
    inside "cd /root/gemtune && $command" </dev/null || code=$?
    echo "== $command: exit code $code after $((SECONDS - began)) s; .venv $(du -sh "$folder/root/gemtune/.venv" 2>/dev/null | cut -f1)"
    [ "$code" = 0 ] || exit "$code"
done
