# Sourced by the recipes: the environment, and stages that are skipped when they are done.
#
#     stage NAME 'what it makes, how long it takes' COMMAND...
#     together FUNCTION NAME...       FUNCTION, a list of stages, for every NAME at once
#     tuned NAME ROUNDS MODEL DEV "FIRST WEIGHTS" OPTIONS...
#         exp/NAME.json: the weights with the fewest errors on a dev set; it is decoded by the first
#         weights, then ROUNDS times by those found so far, since a search at other weights finds
#         other hypotheses; those of one of the searches stay where no others promise fewer
#     gain REF A.jsonl "LABEL A" B.jsonl "LABEL B"    what B gains over A, by the paired test
#
# A stage's marker holds a hash of its command, of the files of conf/ it names, and
# of the stages before it: what is changed runs again, and so does all that follows.

set -euo pipefail
unset CDPATH # with it cd prints the path
case ${ASR_DATA:-/} in /*) ;; *) ASR_DATA=$PWD/$ASR_DATA ;; esac
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

tuned() {
  local name=$1 rounds=$2 model=$3 dev=$4 weights=$5 id=${1//\//-} lists=() round
  shift 5
  for round in $(seq 0 "$rounds"); do
    lists+=("exp/$name.dev.$round.jsonl")
    stage "dev-$id-$round" "n-best lists of the dev set" \
      asr decode "$model" "$dev" -o "exp/$name.dev.$round.jsonl" "$@" $weights
    stage "tune-$id-$round" "weights by the lists so far" \
      asr tune "${lists[@]}" --ref "$dev" -o "exp/$name.json" --plot "exp/$name.png"
    weights="--weights exp/$name.json"
  done
}

gain() {
  asr score "$1" "$2" "$4" --labels "$3,$5" --compare "$2" | tail -n 1
}
