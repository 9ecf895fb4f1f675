#!/usr/bin/env bash
# Sets up, then lint, types and tests; ends non-zero if any of them fails.
#
#   tools/test.sh                       everything but the tests marked slow, two files at a time
#   tools/test.sh -m slow               pytest's arguments, as given
#   tools/test.sh tests/test_wer.py -x
set -uo pipefail
unset CDPATH # with it cd may lead elsewhere

cd "$(dirname "$0")/.." || exit
tools/setup.sh || exit
export PATH=$PWD/.venv/bin:$PATH

failed=()
check() {
    echo "== $*"
    "$@" || failed+=("$1")
}

check ruff check .
check ruff format --check .
check mypy
if [ $# -eq 0 ]; then set -- -m "not slow" -n 2 --dist loadfile; fi
check pytest "$@"

if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
