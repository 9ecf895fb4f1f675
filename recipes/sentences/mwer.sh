#!/usr/bin/env bash
# After run.sh: `./mwer.sh` trains its CTC model, `./mwer.sh las` its LAS model on against expected
# word errors, with the language models of decoding attached, beside the same steps with the original
# loss. The trainings take 6 minutes (LAS: 17).
# These language models have seen text/ only: one that knows the training transcripts corrects every
# mistake there, and nothing is left to learn.
. "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"

. ./after.sh

mkdir -p exp/novels
stage novels-word "word 4-gram of text/ alone" \
  asr lm train "$text" -o exp/novels/word.lm --order 4 --prune "0 0 1"
stage novels-char "character 6-gram of text/ alone" asr lm train "$text" -o exp/novels/char.lm \
  --order 6 --unit token --tokenizer exp/ctc/model --prune "0 0 0 1"
model=${1:-ctc}
case $model in
  ctc) lm="--lm exp/novels/word.lm --lm exp/novels/char.lm" beam=100 epochs=3
    begin="--lm-weight 0.5 --lm-weight 0.3 --length-bonus 1" ;;
  las) lm="--lm exp/novels/word.lm" beam=20 epochs=2
    begin="--lm-weight 0.5 --length-bonus 0.5" ;;
  *) echo "usage: ./mwer.sh [ctc|las]" >&2; exit 2 ;;
esac

weights() { tuned "novels/$1" 3 "exp/$1" "$dev" "$begin" $lm --beam $beam --nbest $beam; }
more=(--init "exp/$model" --set "data.train=[$train]" --set "data.dev=[$devs]" --set data.plain_epochs=0
  --set data.sorted_epochs=0 --set train.epochs=$epochs --set train.average=$epochs --set train.warmup=50
  --set train.learning_rate=2e-4 --threads 1)
lms=${lm//--lm /} lms=${lms// /,}
mwer=(--set mwer.nbest=8 --set "mwer.lm=[$lms]" --set "mwer.weights=exp/novels/$model.json"
  --set mwer.scale=0.4)
trained() {  # trained NAME: some more epochs
  if [ "$1" = "$model-mwer" ]; then local loss=("${mwer[@]}"); else local loss=(); fi
  stage "mwer-train-$1" "$epochs more epochs (6 minutes, LAS 17)" \
    asr train "conf/$model.yaml" -o "exp/$1" "${more[@]}" "${loss[@]}"
  weights "$1"
}
weights "$model"
together trained "$model-plain" "$model-mwer"

for set in speechocean762 arctic-kathleen; do
  manifest=$ASR_DATA/$set/manifest.test.jsonl out=exp/novels/$set
  for name in "$model" "$model-plain" "$model-mwer"; do
    what=("exp/$name" "$manifest" --beam $beam)
    stage "mwer-$set-$name" "$name: $set, without LM" asr decode "${what[@]}" -o "$out.$name.jsonl"
    stage "mwer-$set-$name-lm" "$name: $set, LMs with the weights of training" \
      asr decode "${what[@]}" -o "$out.$name.lm.jsonl" $lm --weights "exp/novels/$model.json"
    stage "mwer-$set-$name-own" "$name: $set, LMs with weights of its own" \
      asr decode "${what[@]}" -o "$out.$name.own.jsonl" $lm --weights "exp/novels/$name.json"
  done
  for row in "" .lm .own; do
    echo "== $set${row:+, LMs with ${row#.}}"
    asr score "$manifest" "$out.$model$row.jsonl" "$out.$model-"{plain,mwer}"$row.jsonl" \
      --labels "start,original loss,MWER" --compare "$out.$model-plain$row.jsonl"
  done
done
