# Sourced by the scripts that go on after run.sh: its models must be there; the corpora by name.
[ -d exp/las/model ] || { echo "Run ./run.sh first: it makes the models." >&2; exit 2; }
: "${ASR_DATA:?names the folder of the corpora and of text/; without them only run.sh can be run}"
train=$ASR_DATA/speechocean762/manifest.train.jsonl,$ASR_DATA/arctic-kathleen/manifest.train.jsonl
devs=$ASR_DATA/speechocean762/manifest.dev.jsonl,$ASR_DATA/arctic-kathleen/manifest.dev.jsonl
dev=$ASR_DATA/speechocean762/manifest.dev.jsonl
text=$ASR_DATA/text/english-novels.txt.gz
