#!/usr/bin/env bash
# Makes .venv with everything the project needs, and does nothing when all is there.
#
#   tools/setup.sh           (PYTHON=python3.12 tools/setup.sh chooses the interpreter)
#
# No root, no network but the package index. Takes a few minutes and about 3 GB; an interrupted run
# is continued by the next. Says what it does on stderr.
set -euo pipefail
unset CDPATH # with it cd prints the path
umask 022

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tools")
venv=$root/.venv
python=$venv/bin/python
constraints=$tools/constraints.txt
done_mark=$venv/setup.done

say() { echo "setup: $*" >&2; }
fail() { echo "error: $*" >&2; exit 1; }

# What the environment was made from; when any of it changes, it is brought up to date.
inputs() {
    { echo "$root"; "$python" --version
      cat "$tools/setup.sh" "$tools/build_lmplz.sh" "$constraints" "$root/pyproject.toml"
    } 2>&1 | sha256sum
}

[ -f "$done_mark" ] && [ "$(inputs)" = "$(cat "$done_mark")" ] && exit 0

exec 9<"$root" # two set-ups at once: the second waits, and finds all done
flock -n 9 || { say "another set-up is at work; waiting for it"; flock 9; }
[ -f "$done_mark" ] && [ "$(inputs)" = "$(cat "$done_mark")" ] && exit 0

# ---- what must be there beforehand

for compiler in cc c++; do
    command -v "$compiler" >/dev/null ||
        fail "no C++ compiler: $compiler is not on PATH (Debian: build-essential)."
done

need_space() { # GB
    local free
    free=$(df -Pk "$root" | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$free" -ge "$1" ] || fail "no space: $root has $free GB left, and set-up needs $1 GB."
}

# The pinned versions exist for these interpreters.
is_supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))'; }

is_usable() { grep -qF "$venv" "$venv/bin/activate" && "$python" -m pip --version; }

if ! is_usable >/dev/null 2>&1; then # absent, half-made, or moved here from another folder
    base=
    candidates=(python3 python3.13 python3.12 python3.11 python3.14)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        is_supported "$candidate" 2>/dev/null && base=$candidate && break
    done
    if [ -z "$base" ]; then
        found=$("${candidates[0]}" --version 2>/dev/null) || found="not installed"
        fail "Python 3.11 to 3.14 is needed, and ${candidates[0]} is $found;" \
            "name another with PYTHON=/path/to/python3."
    fi
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$base cannot make virtual environments; install its venv package (Debian: python3-venv)."
    need_space 3
    say "making $venv with $("$base" --version)"
    rm -rf "$venv"
    "$base" -m venv "$venv"
fi
[ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] ||
    fail "Python.h is missing; install the headers of $("$python" --version) (Debian: python3-dev)."

# ---- Python packages

export PIP_DISABLE_PIP_VERSION_CHECK=1 TMPDIR=$venv/tmp # /tmp is often too small for torch
mkdir -p "$TMPDIR"
trap 'rm -rf "$venv/tmp"' EXIT

has() { "$python" -c "import importlib.metadata as m; m.version('$1')" 2>/dev/null; }

install() {
    "$python" -m pip install --quiet --constraint "$constraints" "$@" >&2 && return
    need_space 3 # torch with CUDA needs more than what was asked for above
    fail "pip failed; its message stands above. Run this again to go on."
}

if ! has torch; then
    need_space 3
    say "torch (the largest part, some minutes)"
fi
install setuptools torch
say "the other packages (about 2 minutes)"
mapfile -t packages < <("$python" -c '
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
extras = sum(project["optional-dependencies"].values(), [])
print(*project["dependencies"], *(name for name in extras if name != "kenlm"), sep="\n")
' "$root/pyproject.toml")
install "${packages[@]}"

# torchaudio's compiled part may be for another torch. MelSpectrogram, all that is used of it, does
# not need that part, and torchaudio loads without it.
if ! "$python" -c 'import torchaudio' >/dev/null 2>&1; then
    rm -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"/torchaudio/lib/*.so
    "$python" -W ignore -c 'import torchaudio' >&2 || fail "torchaudio cannot be imported; see above."
fi
# compat: a path, not an import hook, which a folder named asr where Python is started would hide
install --no-deps --no-build-isolation --config-settings editable_mode=compat --editable "$root"

# ---- KenLM

if ! { [ "$venv/bin/lmplz" -nt "$tools/build_lmplz.sh" ] && [ "$venv/bin/lmplz" -nt "$constraints" ]; }; then
    say "KenLM, which trains language models (about a minute)"
    "$tools/build_lmplz.sh" "$venv" || { need_space 1; fail "KenLM could not be built; see above."; }
fi

inputs >"$done_mark.part"
mv "$done_mark.part" "$done_mark"
say "done"
