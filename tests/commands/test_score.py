"""`asr score` on small sets: pairing, figures, comparison, files, mistakes."""

import json
import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jiwer
import numpy as np
import pytest

from asr.cli import cli
from asr.errors import InputError
from asr.hypothesis import Hypothesis, NBest, Word, write_nbest
from asr.scoring import read_transcripts

RunAsr = Callable[..., subprocess.CompletedProcess[str]]
TEXTS = {f"u{row}": f"the cat number {row} sat on mat" for row in range(24)}
HEARD = {id: text.replace("cat", "hat") if int(id[1:]) % 2 else text for id, text in TEXTS.items()}
WORSE = {id: text.replace("on mat", "in a bag") for id, text in HEARD.items()}


def write_references(path: Path, texts: dict[str, str | None], speakers: int = 0) -> Path:
    rows = []
    for row, (id, text) in enumerate(texts.items()):
        record: dict[str, Any] = {"id": id, "audio": "x.wav", "text": text}
        rows.append(record | ({"speaker": f"s{row % speakers}"} if speakers else {}))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_hypotheses(path: Path, texts: dict[str, str], **meta: Any) -> Path:
    nbest = [NBest(id, [Hypothesis(text), Hypothesis("other")]) for id, text in texts.items()]
    write_nbest(path, meta, nbest)
    return path


@pytest.fixture
def ref(tmp_path: Path) -> Path:
    return write_references(tmp_path / "manifest.test.jsonl", dict(TEXTS), speakers=12)


@pytest.fixture
def hyp(tmp_path: Path) -> Path:
    return write_hypotheses(
        tmp_path / "a.jsonl", HEARD, label="greedy", audio_seconds=50.0, decode_seconds=5.0
    )


@pytest.fixture
def worse(tmp_path: Path) -> Path:
    return write_hypotheses(tmp_path / "b.jsonl", WORSE)


@pytest.fixture
def score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """score(*args) -> (exit status, figures, stdout, stderr)."""

    def run(*args: object) -> tuple[int, dict[str, Any], str, str]:
        status = 0
        figures = tmp_path / "figures.json"
        try:
            cli.main(["score", *map(str, args), "--json", str(figures)], standalone_mode=False)
        except SystemExit as end:
            status = int(str(end.code))
        out, err = capsys.readouterr()
        return status, json.loads(figures.read_text(encoding="utf-8")), out, err

    return run


def test_figures_equal_jiwer(score: Any, ref: Path, worse: Path) -> None:
    status, figures, out, err = score(ref, worse)
    words = jiwer.process_words(list(TEXTS.values()), list(WORSE.values()))
    characters = jiwer.process_characters(list(TEXTS.values()), list(WORSE.values()))
    assert (status, err) == (0, "")
    for name, unit, theirs in (("wer", "words", words), ("cer", "characters", characters)):
        own = figures[name]
        assert own[unit] == theirs.hits + theirs.substitutions + theirs.deletions
        for kind in ("substitutions", "deletions", "insertions"):
            assert own[kind] == getattr(theirs, kind)
        low, high = own["interval"]
        assert low <= own["rate"] <= high
        assert low < high
    assert figures["wer"]["rate"] == words.wer
    assert figures["ser"]["rate"] == figures["ser"]["interval"][1] == 1.0
    assert "bootstrap over 12 speakers (24 utterances), 10,000 resamples" in out
    assert "normaliser none; minimal edit distance" in out
    counts = (words.substitutions, words.deletions, words.insertions)
    row = r"b +{:.2f} +\[.*\] +{} +{} +{} +100.00 +{:.2f}\n"
    assert re.search(row.format(100 * words.wer, *counts, 100 * characters.cer), out)
    assert re.search(r"^s1 +2 +14 ", out, re.MULTILINE)
    assert figures["speakers"]["s1"]["wer"]["words"] == 14
    assert "substitutions: mat → bag 24×, " in out
    assert "cat → hat 12×" in out


def test_pairs_by_id_and_never_drops(score: Any, tmp_path: Path) -> None:
    ref = write_references(tmp_path / "r.jsonl", {"a": "one two", "b": "", "c": "x", "d": "y z"})
    hyp = tmp_path / "h.trn"
    hyp.write_text("y z (d-)\nsurplus (e-)\nnoise (b-)\n(a-)\n", encoding="utf-8")
    status, figures, out, err = score(ref, hyp)
    assert figures["wer"] | {"interval": 0} == {
        "words": 5,
        "substitutions": 0,
        "deletions": 3,  # a is empty, c is missing
        "insertions": 1,
        "rate": 0.8,
        "interval": 0,
    }
    assert figures["missing"] == ["c"]
    assert figures["surplus"] == ["e"]
    assert figures["ser"] | {"interval": 0} == {
        "utterances": 4,
        "wrong": 3,
        "rate": 0.75,
        "interval": 0,
    }
    assert status == 3
    assert "no hypothesis for 1 of 4 utterances; all their words are deletions: c\n" in err
    assert f"e: not in {ref}" in err
    assert "bootstrap over 4 utterances" in out


def test_references_without_text_are_listed(score: Any, tmp_path: Path) -> None:
    ref = write_references(tmp_path / "r.jsonl", {"a": "one two", "b": None})
    status, figures, _, err = score(ref, write_hypotheses(tmp_path / "h.jsonl", {"a": "one two"}))
    assert status == 3
    assert "b: no text in the manifest" in err
    assert figures["wer"]["words"] == 2
    assert figures["wer"]["interval"] == [0.0, pytest.approx(1 - 0.025**0.5)]
    heard = [
        write_hypotheses(tmp_path / f"{name}.jsonl", {"a": "one", "b": "two", "c": "three"})
        for name in ("h1", "h2")
    ]
    _, figures, _, err = score(ref, *heard)
    assert figures["surplus"] == ["c"]  # "b" is known, if not what was said there
    listed = ["b: no text in the manifest", f"c: not in {ref} (h1, h2)"]
    assert err.splitlines() == ["skipped 2 of 3 utterances:", *(f"  {line}" for line in listed)]
    empty = write_references(tmp_path / "e.jsonl", {"b": None})
    with pytest.raises(InputError, match="has no transcripts"):
        score(empty, tmp_path / "h.jsonl")


def test_texts_that_differ_in_case_and_punctuation_only_are_told(
    score: Any, tmp_path: Path
) -> None:
    ref, hyp = tmp_path / "ref.txt", tmp_path / "hyp.txt"
    ref.write_text("u1 Hello, World!\nu2 It's late.\n")
    hyp.write_text("u1 hello world\nu2 it's late\n")
    _, figures, _, err = score(ref, hyp)
    assert figures["wer"]["rate"] == 1.0
    assert "case and punctuation count; with --normalizer basic its WER is 0.00%" in err
    assert "punctuation" not in score(ref, hyp, "--normalizer", "basic")[3]
    hyp.write_text("u1 good morning\nu2 he said\n")
    assert "punctuation" not in score(ref, hyp)[3]


def test_table_of_several_systems_with_verdicts(
    score: Any, ref: Path, hyp: Path, worse: Path
) -> None:
    _, figures, out, _ = score(ref, hyp, worse, "--compare", hyp)
    assert [system["label"] for system in figures["systems"]] == ["greedy", "b"]
    assert figures["wer"] == figures["systems"][0]["wer"]
    assert figures["real_time_factor"] == 0.1
    assert re.search(r"^greedy .* 0\.100$", out, re.MULTILINE)
    assert re.search(r"^b .* -$", out, re.MULTILINE)
    (comparison,) = figures["comparisons"]
    assert comparison["verdict"] == "greedy is better, p < 0.001"
    assert "b against greedy: greedy is better, p < 0.001 (WER +42.86 points" in out
    _, other, _, _ = score(ref, worse, "--compare", hyp, "--labels", "B,A")
    assert other["comparisons"][0]["verdict"] == "A is better, p < 0.001"
    assert score(ref, worse, hyp, "--compare", "A", "--labels", "B,A")[1] == other
    with pytest.raises(InputError, match=r"'greddy' is neither .*Did you mean 'greedy'\?"):
        score(ref, worse, hyp, "--compare", "greddy")
    assert other["comparisons"][0]["difference"] == comparison["difference"]


def test_no_difference_can_be_shown(score: Any, ref: Path, hyp: Path, tmp_path: Path) -> None:
    almost = write_hypotheses(tmp_path / "c.jsonl", HEARD | {"u0": "a cat number 0 sat on mat"})
    _, figures, out, _ = score(ref, hyp, "--compare", almost)
    verdict = "no difference can be shown on 12 speakers (24 utterances)"
    assert figures["comparisons"][0]["verdict"].startswith(f"{verdict}, p = ")
    assert figures["comparisons"][0]["verdict"] in out


def test_alignments_of_the_worst(score: Any, tmp_path: Path) -> None:
    ref = write_references(tmp_path / "r.jsonl", {"a": "x", "b": "the cat sat 你好 on"}, speakers=2)
    hyp = write_hypotheses(tmp_path / "h.jsonl", {"a": "y", "b": "the hat sat 你 on it"})
    _, _, out, _ = score(ref, hyp, "--alignments", 1)
    assert out.endswith(
        "b  (speaker s1)  S 2  D 0  I 1  of 5 words\n"
        "  REF: the cat sat 你好 on **\n"
        "  HYP: the hat sat 你   on it\n"
        "           S       S       I\n"
    )


def test_what_confidences_are_worth(score: Any, ref: Path, tmp_path: Path) -> None:
    """Words are lost or misheard as "hat", so that it is known which are right. Utterances without
    a confidence for each word are left out."""
    rng = np.random.default_rng(4)
    lists, said, right = [], list[float](), list[bool]()
    for row, (id, text) in enumerate(TEXTS.items()):
        kept = [word for word in text.split() if rng.random() > 0.1]
        heard = [word if rng.random() > 0.3 else "hat" for word in kept]
        words = [Word(w, i, i + 1.0, round(float(rng.random()), 4)) for i, w in enumerate(heard)]
        lists.append(NBest(id, [Hypothesis(" ".join(heard), words=words)]))
        if row == 0:
            words[1].confidence = None
        elif row == 1:
            words.clear()
        else:
            said += [float(str(word.confidence)) for word in words]
            right += [word != "hat" for word in heard]
    write_nbest(tmp_path / "c.jsonl", {}, lists)
    _, figures, out, _ = score(ref, tmp_path / "c.jsonl")
    share = sum(right) / len(right)
    entropy = -math.log2(share) * share - math.log2(1 - share) * (1 - share)
    given = [math.log2(c if good else 1 - c) for c, good in zip(said, right, strict=True)]
    nce = 1 + sum(given) / len(given) / entropy
    found = figures["confidence"]
    assert found["words"] == len(said) > 100
    assert found["normalised_cross_entropy"] == pytest.approx(nce)
    lines = ["confidence  correct  words"]
    for tenth in range(10):
        own = [(c, good) for c, good in zip(said, right, strict=True) if int(10 * c) == tenth]
        means = [sum(column) / len(own) for column in zip(*own, strict=True)]
        assert found["reliability"][tenth] == pytest.approx([*means, len(own)])
        lines.append(f"{means[0]:<10.3f}  {means[1]:>7.3f}  {len(own):>5}")
    lines.append(f"normalised cross-entropy of the confidences: {nce:.3f} (1 perfect, 0 worthless")
    assert "\n".join(lines) in out
    _, several, out, _ = score(ref, ref, tmp_path / "c.jsonl")
    assert [system["confidence"] for system in several["systems"]] == [None, found]
    assert "normalised cross-entropy" not in out


def test_tuned_on_the_scored_set(score: Any, ref: Path, tmp_path: Path) -> None:
    manifest, other = {"hash": "abc"}, {"hash": "def"}
    hyp = write_hypotheses(tmp_path / "h.jsonl", HEARD, manifest=manifest, tuned_on=manifest)
    assert "weights were tuned on this very set" in score(ref, hyp)[3]
    hyp = write_hypotheses(tmp_path / "h.jsonl", HEARD, manifest=manifest, tuned_on=other)
    assert score(ref, hyp)[3] == ""


def test_normaliser(score: Any, hyp: Path, tmp_path: Path) -> None:
    ref = write_references(tmp_path / "r.jsonl", {id: text.upper() for id, text in TEXTS.items()})
    assert score(ref, hyp)[1]["normalizer"] == "none"
    _, figures, out, _ = score(ref, hyp, "--normalizer", "basic")
    assert figures["wer"]["substitutions"] == 12
    named = {"name": "basic", "rules": ["nfc", "lower", "strip-punctuation"]}
    tagged = write_hypotheses(tmp_path / "h.jsonl", HEARD, normalizer=named)
    _, figures, out, _ = score(ref, tagged)
    assert figures["wer"]["substitutions"] == 12
    assert "normaliser basic" in out
    third = write_hypotheses(tmp_path / "i.jsonl", HEARD, normalizer={"rules": ["nfc"]})
    with pytest.raises(InputError, match=r"h\.jsonl and .*i\.jsonl name different normalisers"):
        score(ref, tagged, third)
    broken = write_hypotheses(tmp_path / "j.jsonl", HEARD, normalizer={"name": "basic"})
    with pytest.raises(InputError, match=r"j\.jsonl:1: broken meta record: 'normalizer' without"):
        score(ref, broken)


def test_failures_of_decoding_are_counted(score: Any, ref: Path, tmp_path: Path) -> None:
    failed = [NBest(id, [], "broken audio") for id in TEXTS]
    write_nbest(tmp_path / "h.jsonl", {}, failed)
    _, figures, _, err = score(ref, tmp_path / "h.jsonl")
    assert "24 utterances failed in decoding" in err
    assert figures["wer"]["deletions"] == figures["wer"]["words"]


def test_trn_files_give_the_same_in_sclite(
    score: Any, tmp_path: Path, need_tool: Callable[[str], str]
) -> None:
    sctk = need_tool("sctk")
    ref = write_references(tmp_path / "r.jsonl", {"a": "b a c", "b": "{ x", "c": "", "d": "@ w"})
    hyp = write_hypotheses(tmp_path / "h.jsonl", {"a": "a c c d", "b": "{ y", "c": "z"})
    _, figures, out, _ = score(ref, hyp, "--sclite", "--trn", tmp_path / "trn")
    assert "sclite's weights" in out
    command = "sclite -s -e utf-8 -i swb -r ref.trn trn -h hyp.trn trn -o rsum stdout"
    report = subprocess.run(
        [sctk, *command.split()], cwd=tmp_path / "trn", check=True, capture_output=True, text=True
    ).stdout
    total = re.search(r"\| Sum +\| +4 +(\d+) \| +\d+ +(\d+) +(\d+) +(\d+)", report)
    assert total
    own = figures["wer"]
    kinds = ("words", "substitutions", "deletions", "insertions")
    assert [int(count) for count in total.groups()] == [own[kind] for kind in kinds]
    again = score(tmp_path / "trn/ref.trn", tmp_path / "trn/hyp.trn", "--sclite")[1]
    assert again["wer"] == own


def test_trn_files_never_replace_what_is_read(score: Any, tmp_path: Path) -> None:
    for ref, hyp, read in (("ref", "a", "ref"), ("a", "hyp", "hyp")):
        for name in (ref, hyp):
            (tmp_path / f"{name}.trn").write_text("One, two (a-)\n")
        with pytest.raises(InputError, match=rf"/{read}\.trn: is read by this command"):
            score(tmp_path / f"{ref}.trn", tmp_path / f"{hyp}.trn", "--trn", tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        for file in tmp_path.iterdir():
            file.unlink()


def test_system_compared_with_is_scored_once_however_it_is_named(
    score: Any, ref: Path, hyp: Path, worse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hyp.parent)
    figures = score(ref, hyp.name, worse, "--compare", hyp)[1]
    assert [system["label"] for system in figures["systems"]] == ["greedy", "b"]
    assert [(pair["a"], pair["b"]) for pair in figures["comparisons"]] == [("greedy", "b")]


def test_kaldi_text_and_format(score: Any, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a one\nb\n", encoding="utf-8")
    (tmp_path / "h.txt").write_text("one (a-)\n(b-)\n", encoding="utf-8")
    assert score(tmp_path / "text", tmp_path / "text")[1]["wer"]["words"] == 1
    figures = score(tmp_path / "h.txt", tmp_path / "h.txt", "--format", "trn")[1]
    assert figures["wer"]["rate"] == 0


def test_mistakes(score: Any, ref: Path, hyp: Path, tmp_path: Path) -> None:
    double = tmp_path / "d.trn"
    double.write_text("a (u-1)\nb (u-1)\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"d\.trn: the id 'u-1' comes twice"):
        score(ref, double)
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read"):
        score(ref, tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"no normaliser 'basik'.*basic"):
        score(ref, hyp, "--normalizer", "basik")
    with pytest.raises(InputError, match="--labels: 2 labels for 1 systems"):
        score(ref, hyp, "--labels", "a,b")
    with pytest.raises(InputError, match="--labels: two systems have one name: a, a"):
        score(ref, hyp, double.with_name("a.jsonl"), "--labels", "a, a")
    with pytest.raises(InputError, match=r"--labels: two systems have one name: .*a\.jsonl"):
        score(ref, hyp, hyp)
    for lone in (hyp, "greedy"):
        with pytest.raises(InputError, match="--compare: there is but one system"):
            score(ref, hyp, "--compare", lone)
    with pytest.raises(click.BadParameter, match="-1 is not in the range"):
        score(ref, hyp, "--alignments", -1)


def test_labels_that_are_no_names_of_files(
    score: Any, ref: Path, hyp: Path, worse: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "trn"
    with pytest.raises(InputError, match=r"--trn: two systems would be hyp\.a_b\.trn"):
        score(ref, hyp, worse, "--labels", "a/b,a_b", "--trn", folder)
    assert not folder.exists()
    score(ref, hyp, worse, "--labels", "a/b,c", "--trn", folder)
    assert {path.name for path in folder.iterdir()} == {"ref.trn", "hyp.a_b.trn", "hyp.c.trn"}


def test_references_and_hypotheses_exchanged(run_asr: RunAsr, ref: Path, hyp: Path) -> None:
    assert f"warning: {hyp} is an n-best file" in run_asr("score", hyp, ref).stderr
    assert "warning" not in run_asr("score", ref, hyp).stderr


def test_no_common_id_is_one_message(run_asr: RunAsr, ref: Path, tmp_path: Path) -> None:
    hyp = write_hypotheses(tmp_path / "h.jsonl", {"v1": "a"})
    folder = tmp_path / "trn"
    done = run_asr("score", ref, hyp, "--json", tmp_path / "f.json", "--trn", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {hyp}: has no id in common with the references (theirs: 'u0', here: 'v1'). "
        "Give the hypotheses of the same set.\n"
    )
    assert not (tmp_path / "f.json").exists()
    assert not folder.exists()


def test_files_of_another_kind_are_no_kaldi_text(tmp_path: Path) -> None:
    """Unless that is said."""
    for suffix in (".ctm", ".srt", ".tsv", ".lm"):
        path = (tmp_path / "x").with_suffix(suffix)
        path.write_text("".join(f"{name} {text}\n" for name, text in TEXTS.items()))
        with pytest.raises(InputError, match=rf"x\{suffix}: holds no transcripts by id"):
            read_transcripts(path)
        assert read_transcripts(path, "kaldi").texts == TEXTS


def test_a_file_whose_name_is_not_utf8(tmp_path: Path, run_asr: RunAsr) -> None:
    (tmp_path / "r.txt").write_text("a one two\n")
    (tmp_path / "hyp\udce9.txt").write_text("a one too\n")
    done = run_asr("score", "r.txt", "hyp\udce9.txt", "--json", "s.json", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "s.json").exists()) == (2, False)
    assert done.stderr.startswith("error: s.json: cannot be written (not UTF-8: ")
