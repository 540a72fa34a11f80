#!/bin/sh
# Makes the virtual environment in $1 with everything pinned in constraints.txt. Run by make.
set -eu
venv=$1
python=${PYTHON:-python3.11}

fail() {
    echo "meshlore set-up: $1" >&2
    exit 1
}

command -v "$python" >/dev/null || python=python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed: apt-get install python3 python3-venv python3-dev"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "Python's venv module is missing: apt-get install python3-venv"

# libp2p needs fastecdsa, which is built here: a C compiler, Python's headers and GMP's
command -v cc >/dev/null || command -v gcc >/dev/null ||
    fail "a C compiler is needed: apt-get install gcc"
header() {
    echo "#include <$1>" | "${CC:-cc}" -E $2 - >/dev/null 2>&1
}
include=-I$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
header Python.h "$include" || fail "Python's C headers are missing: apt-get install python3-dev"
if ! header gmp.h ""; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "meshlore set-up: installing libgmp-dev (gmp.h, needed to build libp2p's fastecdsa)" >&2
        apt-get update -qq && apt-get install -y -qq libgmp-dev >/dev/null ||
            fail "libgmp-dev could not be installed: run apt-get install libgmp-dev"
    else
        fail "gmp.h is missing: sudo apt-get install libgmp-dev"
    fi
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "meshlore set-up: installing packages into $venv (a few minutes the first time)" >&2
# torch first and by its exact version, so that the CPU build is taken and nothing pulls a larger one
torch=$(grep '^torch==' constraints.txt)
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt "$torch"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
touch "$venv/ready"
