#!/usr/bin/env bash
# Builds KenLM from its source package into a virtual environment: the programs lmplz (trains n-gram
# models) and build_binary, and the Python module kenlm.
#
#   tools/build_lmplz.sh [VENV]       (the project's .venv if not given)
#
# Needs a C++ compiler and Python's headers, no root, and no network but the package index: cmake,
# ninja and Boost are wheels too. They live in a folder that is removed at the end; only Boost's few
# shared libraries stay, in VENV/lib/kenlm.
set -euo pipefail
unset CDPATH # with it cd prints the path

tools=$(cd "$(dirname "$0")" && pwd)
venv=$(cd "${1:-$tools/../.venv}" && pwd)
python=$venv/bin/python
constraints=$tools/constraints.txt
kenlm=$(grep '^kenlm==' "$constraints")

work=$(mktemp -d "$venv/kenlm-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
log=$work/log
failed() { tail -n 30 "$log" >&2; exit 1; }

export PYTHONPATH=$work/site PATH=$work/site/bin:$PATH CMAKE_GENERATOR=Ninja
export CMAKE_POLICY_VERSION_MINIMUM=3.5 # kenlm's build files are older than present-day cmake likes
pip() { "$python" -m pip --quiet --disable-pip-version-check "$@" >>"$log" 2>&1 || failed; }

pip install --target "$work/site" --constraint "$constraints" \
    setuptools cython cmake ninja cmeel-boost
pip download --no-deps --no-build-isolation --no-binary kenlm --dest "$work" "$kenlm"
mkdir "$work/source"
tar -xzf "$work"/kenlm-*.tar.gz -C "$work/source" --strip-components=1
cd "$work/source"

# The package's kenlm.cpp was made by a Cython too old for Python 3.13.
"$python" -m cython --cplus python/kenlm.pyx >>"$log" 2>&1 || failed
pip install --no-deps --no-build-isolation .

# Boost.System has been headers only for years, and Boost 1.89 ends the empty library of its name.
sed -i '/^  system$/d' CMakeLists.txt
boost=$work/site/cmeel.prefix
cmake -S . -B "$work/build" -Wno-dev -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$boost" \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DCMAKE_INSTALL_RPATH='$ORIGIN/../lib/kenlm' \
    >>"$log" 2>&1 || failed
cmake --build "$work/build" --target lmplz build_binary >>"$log" 2>&1 || failed

mkdir -p "$venv/lib/kenlm"
LD_LIBRARY_PATH=$boost/lib ldd "$work/build/bin/lmplz" | sed -n '/libboost/s/.* => \(.*\) (0x.*/\1/p' |
    while read -r library; do cp -L "$library" "$venv/lib/kenlm/"; done
for program in build_binary lmplz; do
    cp "$work/build/bin/$program" "$venv/bin/$program.part"
done

# A tiny model as proof that the program finds its libraries and that the module reads the result.
printf 'a b c\na b\nb c a\n' |
    "$venv/bin/lmplz.part" -o 2 --discount_fallback >"$work/tiny.arpa" 2>>"$log" || failed
"$python" -c 'import sys, kenlm; kenlm.Model(sys.argv[1]).score("a b")' "$work/tiny.arpa" >>"$log" 2>&1 ||
    failed

mv "$venv/bin/build_binary.part" "$venv/bin/build_binary"
mv "$venv/bin/lmplz.part" "$venv/bin/lmplz" # last: where it is, everything is
