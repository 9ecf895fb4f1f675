#!/usr/bin/env bash
# Real sentences of many speakers: speechocean762 (Mandarin speakers, half children: hard) and
# arctic-kathleen, trained on together; word and character n-grams; 75 minutes, with --quick 35.
# The corpora are taken from $ASR_DATA; without it speechocean762 alone is downloaded (OpenSLR 101).
. "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"

ctc=() las=()
if [ "${1:-}" = --quick ]; then ctc=(--set train.epochs=14) las=(--set train.epochs=7); fi

if [ -n "${ASR_DATA:-}" ]; then
  train=$ASR_DATA/speechocean762/manifest.train.jsonl,$ASR_DATA/arctic-kathleen/manifest.train.jsonl
  devs=$ASR_DATA/speechocean762/manifest.dev.jsonl,$ASR_DATA/arctic-kathleen/manifest.dev.jsonl
  dev=$ASR_DATA/speechocean762/manifest.dev.jsonl
  tests=("$ASR_DATA/speechocean762/manifest.test.jsonl" "$ASR_DATA/arctic-kathleen/manifest.test.jsonl")
  text=("$ASR_DATA/text/english-novels.txt.gz")
else
  stage download "speechocean762 (520 MB)" sh -c 'mkdir -p corpus &&
    curl -fL https://www.openslr.org/resources/101/speechocean762.tar.gz | tar -xz -C corpus'
  stage data "manifests" asr prepare kaldi corpus/speechocean762/train -o data --dev 0.08
  stage data-test "manifests" asr prepare kaldi corpus/speechocean762/test -o data --name test
  train=data/manifest.train.jsonl devs=data/manifest.dev.jsonl dev=$devs
  tests=(data/manifest.test.jsonl) text=()
fi
IFS=, read -ra manifests <<< "$train"
sets=(--set "data.train=[$train]" --set "data.dev=[$devs]")

stage train-ctc "CTC model, from waveforms (32 minutes; --quick 14)" \
  asr train conf/ctc.yaml -o exp/ctc "${sets[@]}" "${ctc[@]}"
stage lm-word "word 4-gram (10 s)" \
  asr lm train "${manifests[@]}" "${text[@]}" -o exp/word.lm --order 4 --prune "0 0 1"
stage lm-char "character 6-gram (20 s)" \
  asr lm train "${manifests[@]}" "${text[@]}" -o exp/char.lm --order 6 --unit token --tokenizer exp/ctc/model --prune "0 0 0 1"

word="--lm exp/word.lm" char="--lm exp/char.lm"
wide="--beam 100 --nbest 100"
tuned word 1 exp/ctc "$dev" "--lm-weight 0.8 --length-bonus 1" $wide $word
tuned char 1 exp/ctc "$dev" "--lm-weight 0.6 --length-bonus 0.5" $wide $char
tuned both 1 exp/ctc "$dev" "--lm-weight 0.5 --lm-weight 0.3 --length-bonus 1" $wide $word $char
stage dev-plain "100-best list without LM" \
  asr decode exp/ctc "$dev" -o exp/plain.dev.jsonl $wide
stage tune-plain "weights of rescoring" \
  asr tune exp/plain.dev.jsonl --ref "$dev" --lm exp/word.lm -o exp/plain.json
for manifest in "${tests[@]}"; do
  set=$(basename "$(dirname "$manifest")") out=exp/$(basename "$(dirname "$manifest")")
  stage "$set-1" "$set: CTC greedy" asr decode exp/ctc "$manifest" -o "$out.1.jsonl" --beam 1
  stage "$set-2" "$set: CTC beam" asr decode exp/ctc "$manifest" -o "$out.2.jsonl" $wide
  stage "$set-3" "$set: + characters" asr decode exp/ctc "$manifest" -o "$out.3.jsonl" --beam 100 $char --weights exp/char.json
  stage "$set-4" "$set: + words" asr decode exp/ctc "$manifest" -o "$out.4.jsonl" --beam 100 $word --weights exp/word.json
  stage "$set-5" "$set: + both" asr decode exp/ctc "$manifest" -o "$out.5.jsonl" --beam 100 $word $char --weights exp/both.json
  stage "$set-6" "$set: rescored" asr rescore "$out.2.jsonl" $word --weights exp/plain.json -o "$out.6.jsonl"
done

stage train-las "LAS model, from waveforms (32 minutes; --quick 16)" \
  asr train conf/las.yaml -o exp/las "${sets[@]}" "${las[@]}"
tuned las 3 exp/las "$dev" "--lm-weight 0.5 --length-bonus 0.5" --beam 20 --nbest 20 $word
stage attention "pictures of the attention on the dev set" \
  asr align exp/las "$dev" -o exp/las.ctm --pictures exp/pictures

labels="CTC greedy,CTC beam,CTC + character n-gram,CTC + word n-gram,CTC + both,CTC n-best rescored,LAS greedy,LAS beam,LAS + n-gram"
for manifest in "${tests[@]}"; do
  set=$(basename "$(dirname "$manifest")") out=exp/$(basename "$(dirname "$manifest")")
  stage "$set-7" "$set: LAS greedy" asr decode exp/las "$manifest" -o "$out.7.jsonl" --beam 1
  stage "$set-8" "$set: LAS beam" asr decode exp/las "$manifest" -o "$out.8.jsonl" --beam 20
  stage "$set-9" "$set: LAS + n-gram" asr decode exp/las "$manifest" -o "$out.9.jsonl" --beam 20 $word --weights exp/las.json
  echo "== $set"
  asr score "$manifest" "$out".[1-9].jsonl --labels "$labels" --compare "$out.2.jsonl" --json "$out.json"
  gain "$manifest" "$out.8.jsonl" "LAS beam" "$out.9.jsonl" "LAS + n-gram"
done
