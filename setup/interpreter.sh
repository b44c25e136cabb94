#!/bin/sh
# Prints the Python to use: $PYTHON if it is set, otherwise python3, or, if that is not supported, the newest of
# python3.14 … python3.11. requires-python in pyproject.toml is the supported range. If there is none, fails with a list
# of what it has tried.
set -eu
project=${0%/*}/..

range=$(sed -n 's/^requires-python = ">=3\.\([0-9]*\),<3\.\([0-9]*\)"$/\1 \2/p' "$project/pyproject.toml")
oldest=${range% *}
newest=$((${range#* } - 1))

version_of() { # "3.13.5"; for another implementation "PyPy 3.11.13"; nothing if it does not run
    "$1" -c 'import platform, sys
name = platform.python_implementation()
print(("" if name == "CPython" else name + " ") + "%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || true
}

fits() { # whether a version is supported
    case $1 in 3.*.*) ;; *) return 1 ;; esac
    minor=${1#3.}
    minor=${minor%%.*}
    [ "$minor" -ge "$oldest" ] && [ "$minor" -le "$newest" ]
}

accepted() { # "3.11, 3.12, 3.13 or 3.14"
    minor=$oldest
    while [ "$minor" -lt "$((newest - 1))" ]; do
        printf '3.%s, ' "$minor"
        minor=$((minor + 1))
    done
    printf '3.%s or 3.%s' "$((newest - 1))" "$newest"
}

candidates=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ]; then
    minor=$newest
    while [ "$minor" -ge "$oldest" ]; do
        candidates="$candidates python3.$minor"
        minor=$((minor - 1))
    done
fi

tried=
for candidate in $candidates; do
    version=$(version_of "$candidate")
    if fits "$version"; then
        echo "$candidate"
        exit
    fi
    tried="$tried
  $candidate: ${version:-does not run here}"
done
cat >&2 <<END
gemtune needs Python $(accepted). Tried:$tried
Install one of them, or set its path: make PYTHON=/path/to/python …
END
exit 1
