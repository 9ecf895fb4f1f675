#!/usr/bin/env bash
# After run.sh: the CTC model trained on against expected word errors, with the language models of
# decoding attached, beside the same steps with the original loss. 10 minutes.
# These language models have seen text/ only: one that knows the training transcripts corrects every
# mistake there, and nothing is left to learn.
. "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"

. ./after.sh

mkdir -p exp/novels
stage novels-word "word 4-gram of text/ alone" \
  asr lm train "$text" -o exp/novels/word.lm --order 4 --prune "0 0 1"
stage novels-char "character 6-gram of text/ alone" asr lm train "$text" -o exp/novels/char.lm \
  --order 6 --unit token --tokenizer exp/ctc/model --prune "0 0 0 1"
lm="--lm exp/novels/word.lm --lm exp/novels/char.lm"
tuned() {  # tuned MODEL: the weights with which it is decoded
  stage "mwer-dev-$1" "$1: n-best list of the dev set" asr decode "exp/$1" "$dev" \
    -o "exp/novels/$1.dev.jsonl" --beam 100 --nbest 100 $lm --lm-weight 0.5 --lm-weight 0.3 --length-bonus 1
  stage "mwer-tune-$1" "$1: weights" \
    asr tune "exp/novels/$1.dev.jsonl" --ref "$dev" -o "exp/novels/$1.json"
}
more=(--init exp/ctc --set "data.train=[$train]" --set "data.dev=[$devs]" --set data.plain_epochs=0
  --set data.sorted_epochs=0 --set train.epochs=3 --set train.average=3 --set train.warmup=50
  --set train.learning_rate=2e-4 --threads 1)
mwer=(--set mwer.nbest=8 --set "mwer.lm=[exp/novels/word.lm,exp/novels/char.lm]"
  --set mwer.weights=exp/novels/ctc.json --set mwer.scale=0.4)
trained() {  # trained plain|mwer: three more epochs
  if [ "$1" = mwer ]; then local loss=("${mwer[@]}"); else local loss=(); fi
  stage "mwer-train-$1" "three more epochs (5 minutes)" \
    asr train conf/ctc.yaml -o "exp/$1" "${more[@]}" "${loss[@]}"
  tuned "$1"
}
tuned ctc
together trained plain mwer

for set in speechocean762 arctic-kathleen; do
  manifest=$ASR_DATA/$set/manifest.test.jsonl out=exp/novels/$set
  for model in ctc plain mwer; do
    stage "mwer-$set-$model" "$model: $set, without LM" \
      asr decode "exp/$model" "$manifest" -o "$out.$model.jsonl" --beam 100
    stage "mwer-$set-$model-lm" "$model: $set, LMs with the weights of training" \
      asr decode "exp/$model" "$manifest" -o "$out.$model.lm.jsonl" --beam 100 $lm --weights exp/novels/ctc.json
    stage "mwer-$set-$model-own" "$model: $set, LMs with weights of its own" \
      asr decode "exp/$model" "$manifest" -o "$out.$model.own.jsonl" --beam 100 $lm --weights "exp/novels/$model.json"
  done
  for row in "" .lm .own; do
    echo "== $set${row:+, LMs with ${row#.}}"
    asr score "$manifest" "$out".{ctc,plain,mwer}$row.jsonl --labels "start,original loss,MWER" \
      --compare "$out.plain$row.jsonl"
  done
done
