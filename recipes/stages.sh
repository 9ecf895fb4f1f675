# Sourced by the recipes: the environment, and stages that are skipped when they are done.
#
#     stage NAME 'what it makes, how long it takes' COMMAND...
#     together FUNCTION NAME...       FUNCTION, a list of stages, for every NAME at once
#
# A stage's marker holds a hash of its command, of the files of conf/ it names, and
# of the stages before it: what is changed runs again, and so does all that follows.

set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)
root=$(cd "$recipe/../.." && pwd)
"$root/tools/setup.sh"
export PATH="$root/.venv/bin:$PATH"
cd "$recipe"
chain=""

stage() {
  local name=$1 what=$2 marker="exp/.done/$1" arg begin=$SECONDS
  shift 2
  for arg in "$@"; do
    case $arg in conf/*) chain+=$(cat "$arg") ;; esac
  done
  chain=$(printf '%s\n' "$chain" "$@" | sha256sum | cut -d' ' -f1)
  if [ -f "$marker" ] && [ "$(cat "$marker")" = "$chain" ]; then
    echo "== $name: done before" >&2
    return
  fi
  echo "== $name: $what" >&2
  mkdir -p exp/.done
  rm -f "$marker"
  "$@"
  echo "$chain" > "$marker"
  echo "== $name: $((SECONDS - begin)) s" >&2
}

together() {
  local run=$1 name failed=0
  shift
  mkdir -p exp/.done
  # what runs in the background is deaf to Ctrl-C
  trap 'trap - INT TERM; kill 0' INT TERM
  for name; do
    { "$run" "$name"; echo "$chain" > "exp/.done/chain-$name"; } 2>&1 | sed -u "s/^/$name | /" >&2 &
  done
  for name in $(jobs -p); do wait "$name" || failed=1; done
  trap - INT TERM
  [ $failed = 0 ] || exit 1
  for name; do chain+=$(cat "exp/.done/chain-$name"); done
}
