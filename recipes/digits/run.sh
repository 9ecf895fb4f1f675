#!/usr/bin/env bash
# Real digits (FSDD, 8 kHz): single ones and strings of 3 to 7, CTC and LAS, both front-ends; about
# 20 minutes on two cores, one for each front-end. Trained on recordings 10-49 of four speakers;
# everything is chosen on their 5-9; tested on their 0-4 and, once, on a fifth speaker whom no choice
# has seen. The corpus is taken from $ASR_DATA/fsdd, or downloaded.
. "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"

if [ -n "${ASR_DATA:-}" ]; then source=("$ASR_DATA/fsdd"); else source=(corpus --download); fi
stage data "manifests, and strings joined from single digits (a few seconds)" \
  asr prepare fsdd "${source[@]}" -o data --strings 3-7 --count train=600
stage lm "bigram of the training strings" \
  asr lm train data/manifest.train.jsonl data/manifest.train-strings.jsonl -o exp/word.lm --order 2

dev=data/manifest.dev-strings.jsonl lm="--lm exp/word.lm" one="--threads 1"
models() {  # models FRONT-END: LAS, CTC from its listener, and the weights of their searches
  local front=$1 set="--set model.frontend.type=$1" las=exp/las-$1 ctc=exp/ctc-$1
  stage train-las-$front "LAS model (8 minutes)" asr train conf/las.yaml -o $las $set $one
  stage train-ctc-$front "CTC model (2 minutes)" asr train conf/ctc.yaml -o $ctc $set $one --init $las
  tuned las-$front 0 $las $dev "" --beam 20 --nbest 20 $lm $one
  tuned ctc-$front 0 $ctc $dev "" --beam 100 --nbest 100 $lm $one
  stage dev-plain-$front "100-best lists without LM, for rescoring" \
    asr decode $ctc $dev -o $ctc.plain.jsonl --beam 100 --nbest 100 $one
  stage tune-plain-$front "weights of rescoring" \
    asr tune $ctc.plain.jsonl --ref $dev $lm -o exp/rescoring-$front.json
}
together models conv logmel

tests="test test-strings unseen unseen-strings"
rows="CTC greedy,CTC beam,CTC + n-gram,CTC n-best rescored,LAS greedy,LAS beam,LAS + n-gram"
decoded() {  # decoded FRONT-END: the rows of all tables
  local front=$1 set manifest ctc=exp/ctc-$1 las=exp/las-$1 out
  for set in $tests; do
    manifest=data/manifest.$set.jsonl out=exp/$set-$front
    stage $set-$front-1 "$set: CTC greedy" asr decode $ctc $manifest -o $out.1.jsonl --beam 1 $one
    stage $set-$front-2 "$set: CTC beam" \
      asr decode $ctc $manifest -o $out.2.jsonl --beam 100 --nbest 100 $one
    stage $set-$front-3 "$set: CTC + n-gram" \
      asr decode $ctc $manifest -o $out.3.jsonl --beam 100 $lm --weights $ctc.json $one
    stage $set-$front-4 "$set: CTC rescored" \
      asr rescore $out.2.jsonl $lm --weights exp/rescoring-$front.json -o $out.4.jsonl
    stage $set-$front-5 "$set: LAS greedy" asr decode $las $manifest -o $out.5.jsonl --beam 1 $one
    stage $set-$front-6 "$set: LAS beam" asr decode $las $manifest -o $out.6.jsonl --beam 20 $one
    stage $set-$front-7 "$set: LAS + n-gram" \
      asr decode $las $manifest -o $out.7.jsonl --beam 20 $lm --weights $las.json $one
  done
}
together decoded conv logmel

for set in $tests; do
  echo "== $set"
  asr score data/manifest.$set.jsonl exp/$set-{conv,logmel}.[1-7].jsonl --compare exp/$set-conv.2.jsonl \
    --labels "${rows//,/ (conv),} (conv),${rows//,/ (logmel),} (logmel)"
  for front in conv logmel; do
    out=exp/$set-$front
    gain data/manifest.$set.jsonl $out.2.jsonl "CTC beam ($front)" $out.3.jsonl "CTC + n-gram ($front)"
    gain data/manifest.$set.jsonl $out.6.jsonl "LAS beam ($front)" $out.7.jsonl "LAS + n-gram ($front)"
  done
done
