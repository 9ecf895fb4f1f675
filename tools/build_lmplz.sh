#!/usr/bin/env bash
# Builds KenLM's lmplz and build_binary from kenlm's source package into a virtual environment.
#
#   tools/build_lmplz.sh [VENV]       (the project's .venv if not given)
#
# No root and no network but the package index: cmake, ninja and Boost are wheels too. They live in
# a folder that is removed at the end; only Boost's few shared libraries stay, in VENV/lib/kenlm.
set -euo pipefail

tools=$(cd "$(dirname "$0")" && pwd)
venv=$(cd "${1:-$tools/../.venv}" && pwd)
python=$venv/bin/python
constraints=$tools/constraints.txt
kenlm=$(grep '^kenlm==' "$constraints")

work=$(mktemp -d "$venv/kenlm-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONPATH=$work/site PATH=$work/site/bin:$PATH

"$python" -m pip install --quiet --target "$work/site" --constraint "$constraints" \
    setuptools cmake ninja cmeel-boost
"$python" -m pip download --quiet --no-deps --no-build-isolation --no-binary kenlm \
    --dest "$work" "$kenlm"
mkdir "$work/source"
tar -xzf "$work"/kenlm-*.tar.gz -C "$work/source" --strip-components=1

# Boost.System has been headers only for years, and Boost 1.89 ends the empty library of its name.
sed -i '/^  system$/d' "$work/source/CMakeLists.txt"
boost=$work/site/cmeel.prefix
# The policy option: kenlm's build files are older than what present-day cmake accepts by itself.
cmake -S "$work/source" -B "$work/build" -G Ninja -Wno-dev --log-level=WARNING \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_POLICY_VERSION_MINIMUM=3.5 -DCMAKE_PREFIX_PATH="$boost" \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DCMAKE_INSTALL_RPATH='$ORIGIN/../lib/kenlm' >"$work/log" 2>&1 &&
    cmake --build "$work/build" --target lmplz build_binary >>"$work/log" 2>&1 ||
    { tail -n 30 "$work/log" >&2; exit 1; }

mkdir -p "$venv/lib/kenlm"
LD_LIBRARY_PATH=$boost/lib ldd "$work/build/bin/lmplz" | awk '/libboost/ {print $3}' |
    while read -r library; do cp -L "$library" "$venv/lib/kenlm/"; done
for program in build_binary lmplz; do # lmplz last: where it is, everything is
    cp "$work/build/bin/$program" "$venv/bin/$program.part"
    mv "$venv/bin/$program.part" "$venv/bin/$program"
done
# A tiny model as proof that the program finds its libraries and counts.
printf 'a b c\na b\nb c a\n' | "$venv/bin/lmplz" -o 2 --discount_fallback >"$work/arpa" 2>>"$work/log" ||
    { tail -n 5 "$work/log" >&2; exit 1; }
