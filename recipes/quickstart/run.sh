#!/usr/bin/env bash
# From nothing to a recogniser in 10 minutes: speech is synthesised by eSpeak NG, a CTC and a LAS
# model are trained on its waveforms, decoded with an n-gram language model, scored, and used.
# SEED=2 ./run.sh takes other sentences, voices and initial weights; remove exp/ and data/ first.
. "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"

seed=${SEED:-1}
dev=data/manifest.dev.jsonl
test=data/manifest.test.jsonl
lm="--lm exp/word.lm"

stage data "4,370 sentences in 79 voices, and text for the language model (20 s)" \
  asr prepare espeak conf/grammar.txt -o data --train 4000 --seed "$seed"
stage lm "word 4-gram of 40,000 sentences, none of the test's (5 s)" \
  asr lm train data/lm.txt -o exp/word.lm --order 4

# The models are made and tried at the same time, on one core each: faster than one after the other
# on two. LM weight and word bonus come from the dev set: for CTC once for fusion, once for rescoring.
one="--threads 1"
ctc() {
  stage train-ctc "CTC model, from waveforms (4 minutes)" \
    asr train conf/ctc.yaml -o exp/ctc --set seed="$seed" $one
  stage dev-plain "100-best lists of the dev set, without LM" \
    asr decode exp/ctc $dev -o exp/ctc.dev.plain.jsonl --beam 100 --nbest 100 $one
  tuned fusion 0 exp/ctc $dev "--length-bonus 1" --beam 100 --nbest 100 $lm $one
  stage tune-rescoring "weights of rescoring" \
    asr tune exp/ctc.dev.plain.jsonl --ref $dev --lm exp/word.lm -o exp/rescoring.json
  stage ctc-greedy "test set" \
    asr decode exp/ctc $test -o exp/1.jsonl --beam 1 $one
  stage ctc-beam "test set" \
    asr decode exp/ctc $test -o exp/2.jsonl --beam 100 --nbest 100 $one
  stage ctc-lm "test set" \
    asr decode exp/ctc $test -o exp/3.jsonl --beam 100 $lm --weights exp/fusion.json $one
  stage ctc-rescored "test set" \
    asr rescore exp/2.jsonl $lm --weights exp/rescoring.json -o exp/4.jsonl
}
las() {
  stage train-las "LAS model, from waveforms (4 minutes)" \
    asr train conf/las.yaml -o exp/las --set seed="$seed" $one
  tuned las 0 exp/las $dev "--length-bonus 1" --head las --beam 20 --nbest 20 $lm $one
  stage las-greedy "test set" \
    asr decode exp/las $test -o exp/5.jsonl --head las --beam 1 $one
  stage las-beam "test set" \
    asr decode exp/las $test -o exp/6.jsonl --head las --beam 20 $one
  stage las-lm "test set" \
    asr decode exp/las $test -o exp/7.jsonl --beam 20 $lm --weights exp/las.json $one
}
model() { "$1"; }
together model ctc las

labels="CTC greedy,CTC beam,CTC + n-gram,CTC n-best rescored,LAS greedy,LAS beam,LAS + n-gram"
asr score $test exp/[1-7].jsonl --labels "$labels" --compare exp/2.jsonl --json exp/scores.json
gain $test exp/6.jsonl "LAS beam" exp/7.jsonl "LAS + n-gram"

stage transcribe "a file to text and subtitles" \
  asr transcribe exp/ctc data/audio/test-00000.flac -f txt,srt -o exp/transcribed $lm --weights exp/fusion.json --beam 100
cat exp/transcribed/test-00000.txt exp/transcribed/test-00000.srt
