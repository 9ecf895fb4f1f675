#!/usr/bin/env bash
# After run.sh: every way to search, on the same models. A third one, CTC of phones, is trained and
# decoded as EESEN does: pronunciations and a word LM. About 22 minutes. All weights come from the dev set.
. "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"

. ./after.sh
IFS=, read -ra manifests <<< "$train"
word="--lm exp/word.lm" char="--lm exp/char.lm"

stage lexicon "pronunciations of all words of the word LM (5 s)" \
  asr prepare lexicon "${manifests[@]}" "$text" -o exp/lexicon.txt
stage spellings "the same words, to be spelt by the model's characters" \
  sh -c "sed 's/[( ].*//' exp/lexicon.txt | sort -u > exp/words.txt"
stage phones "phones as tokens" asr tokenizer exp/lexicon.txt --type lexicon -o exp/phones.json
stage train-phones "CTC of phones, from the CTC model's encoder (16 minutes)" \
  asr train conf/ctc.yaml -o exp/phones --set "data.train=[$train]" --set "data.dev=[$devs]" \
  --set tokenizer.path=exp/phones.json --init exp/ctc --set train.epochs=14 --set data.plain_epochs=2

ways() {  # ways NAME ROUNDS MODEL LM-WEIGHT OPTIONS...: tuned on the dev set, then both test sets
  local name=$1 rounds=$2 model=$3 weight=$4 set
  shift 4
  tuned "way.$name" "$rounds" "$model" "$dev" "--lm-weight $weight --length-bonus 1" "$@"
  for set in speechocean762 arctic-kathleen; do
    stage "$name-$set" "$name: $set" asr decode "$model" "$ASR_DATA/$set/manifest.test.jsonl" \
      -o "exp/way.$set.$name.jsonl" "$@" --weights "exp/way.$name.json"
  done
}
wide="--beam 100 --nbest 100 $word"
ways spellings 1 exp/ctc 0.8 $wide --lexicon exp/words.txt
ways pronunciations 1 exp/phones 0.8 $wide --lexicon exp/lexicon.txt
ways joint 3 exp/las 0.5 --head joint --beam 20 --nbest 20 $word
stage dev-twice "rescored with both LMs: weights" asr tune exp/plain.dev.jsonl --ref "$dev" \
  $word $char -o exp/way.twice.json
whole() {  # whole NAME MODEL N OPTIONS...: N-best lists of a row of run.sh's tables, for their oracle
  local name=$1 model=$2 n=$3 set
  shift 3
  for set in speechocean762 arctic-kathleen; do
    stage "whole-$name-$set" "$name: $n-best lists of $set" asr decode "$model" \
      "$ASR_DATA/$set/manifest.test.jsonl" -o "exp/way.$set.$name.jsonl" --beam "$n" --nbest "$n" \
      "$@" --weights "exp/$name.json"
  done
}
whole char exp/ctc 100 $char
whole word exp/ctc 100 $word
whole both exp/ctc 100 $word $char
whole las exp/las 20 $word
for set in speechocean762 arctic-kathleen; do
  manifest=$ASR_DATA/$set/manifest.test.jsonl out=exp/way.$set
  echo "== $set: oracle of the 100-best list without LM, and what both LMs make of it"
  asr rescore "exp/$set.2.jsonl" $word $char --weights exp/way.twice.json -o "$out.twice.jsonl" --ref "$manifest"
  asr score "$manifest" exp/$set.{1,3,4,5,8}.jsonl "$out".{spellings,pronunciations,joint,twice}.jsonl \
    --labels "CTC greedy,open: characters,open: words,open: both,LAS,lexicon: spellings,lexicon: pronunciations,LAS joint + words,CTC rescored with both" \
    --compare "exp/$set.5.jsonl"
  for name in char word both las way.{spellings,pronunciations,joint}; do
    asr rescore "$out.${name#way.}.jsonl" --weights "exp/$name.json" -o exp/oracle.jsonl --ref "$manifest" |
      sed "s/ -> [^,]*//; s/:.*//; s/^/${name#way.}: /"
  done
done
