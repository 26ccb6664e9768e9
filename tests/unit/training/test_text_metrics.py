from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer

from worker.training.evaluation.metrics import compute, greater_is_better
from worker.training.evaluation.metrics.text import READ_FROM_TEXT, WRITTEN, Words


def measured(tmp_path: Path, *pairs: tuple[str, str]) -> dict[str, float]:
    """Every metric of (written, target)."""
    written = [{"text": text, "loss": 2.0, "tokens": 4} for text, _ in pairs]
    return compute(WRITTEN, list(WRITTEN), written, [target for _, target in pairs], tmp_path)


def test_rouge_is_that_of_the_paper(tmp_path: Path) -> None:
    # Lin (2004), section 3: of the reference "police killed the gunman" the sentence keeps "the gunman" in order.
    found = measured(tmp_path, ("the gunman murdered police", "police killed the gunman"))
    assert found["rougeL"] == pytest.approx(0.5)
    assert found["rouge1"] == pytest.approx(0.75)
    assert found["rouge2"] == pytest.approx(1 / 3)


def test_rouge_is_a_mean_over_rows(tmp_path: Path) -> None:
    found = measured(tmp_path, ("the same", "the same"), ("nothing", "alike here"))
    assert found["rouge1"] == found["rougeL"] == found["exact_match"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "text",
    [
        "The runners' shoes weren't cheap: $120 (in 2019)!",
        "snake_case_words and hyphen-ated ones, e.g. state-of-the-art",
        "Generalizations were reorganised; studies studying studied",
    ],
)
def test_english_words_are_those_of_rouge_score(text: str) -> None:
    theirs = RougeScorer(["rouge1"], use_stemmer=True)._tokenizer.tokenize(text)  # noqa: SLF001
    assert Words().tokenize(text) == theirs


def test_words_of_every_script_count(tmp_path: Path) -> None:
    assert Words().tokenize("Привет, мир") == ["привет", "мир"]
    assert Words().tokenize("東京は晴れ ok") == ["東", "京", "は", "晴", "れ", "ok"]
    assert measured(tmp_path, ("привет мир", "привет всем"))["rouge1"] == pytest.approx(0.5)


def test_bleu_by_hand(tmp_path: Path) -> None:
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, none of 3 fours, which smoothing counts as half of one.
    found = measured(tmp_path, ("the cat sat on the mat", "the cat is on the mat"))
    assert found["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 0.5 / 3) ** 0.25)


def test_chrf_by_hand(tmp_path: Path) -> None:
    # Of 1 to 4 letters in a row: 3 of 4, 2 of 3, 1 of 2, 0 of 1, the same both ways.
    found = measured(tmp_path, ("abcd", "abce"))
    assert found["chrf"] == pytest.approx(100 * (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4)


def test_what_is_the_same_is_perfect_and_spacing_does_not_count(tmp_path: Path) -> None:
    text = "four words are here"
    found = measured(tmp_path, (f" {text}\n", text.replace(" ", "  ")))
    assert (found["rougeL"], found["exact_match"]) == (1.0, 1.0)
    assert (found["bleu"], found["chrf"]) == pytest.approx((100, 100))
    assert measured(tmp_path, ("Four words are here", text))["exact_match"] == 0


def test_nothing_written_is_worth_nothing(tmp_path: Path) -> None:
    found = measured(tmp_path, ("", "some words are missing"))
    assert {found[name] for name in READ_FROM_TEXT} == {0.0}


def test_perplexity_is_of_the_targets_tokens(tmp_path: Path) -> None:
    assert measured(tmp_path, ("a", "b"), ("c", "d"))["perplexity"] == pytest.approx(2.718281828**0.5)
    assert not greater_is_better("perplexity")
    assert all(greater_is_better(name) for name in READ_FROM_TEXT)
