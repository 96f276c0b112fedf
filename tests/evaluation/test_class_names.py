"""Classes of judged images, of a reference and of a classifier are matched by name, not by number alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from purrception.cli import main
from purrception.data.classes import match_classes
from purrception.evaluation.extractors.classifier import load_classifier
from tests.evaluation.test_evaluate import digits, report_of

__all__ = ["digits"]


@pytest.mark.parametrize(
    ("names", "others", "expected"),
    [
        (("cat", "dog"), ("cat", "dog"), (0, 1)),
        (("dog", "cat"), ("cat", "dog"), (1, 0)),
        (("dog",), ("cat", "dog"), (1,)),
        (("cat", "dog"), ("dog", "eel"), None),
        (("0", "1"), ("cat", "dog"), (0, 1)),
        (("cat", "dog"), ("0", "1"), (0, 1)),
        (("0", "1"), ("cat", "dog", "eel"), None),
        (("0", "1"), ("0", "1", "2"), (0, 1)),
        (("1", "2", "3"), ("0", "1", "2"), (0, 1, 2)),
        (("0", "2"), ("0", "1", "2"), (0, 2)),
        (tuple(map(str, range(11))), tuple(sorted(map(str, range(11)))), None),
        (("crane", "crane"), ("crane", "crane"), (0, 1)),
        (("crane",), ("crane", "crane"), None),
    ],
)
def test_classes_are_matched_by_name_or_by_number_where_there_are_no_names(
    names: tuple[str, ...], others: tuple[str, ...], expected: tuple[int, ...] | None
) -> None:
    assert match_classes(names, others) == expected


def evaluate(*arguments: object, cache: Path) -> None:
    """With a cache, so that the classifier of one reference is learned once."""
    common = ["--bootstrap", 0, "--cache", cache, "--classifier.steps", 150]
    assert main(["evaluate", *map(str, [*arguments, *common])]) == 0


def test_labels_of_a_folder_mean_the_classes_of_their_names(digits: Path, tmp_path: Path) -> None:
    """Four digits, named; then the same in other words, whose order is another, and without the first."""
    real, cache = tmp_path / "real", tmp_path / "cache"
    for digit, name in enumerate(("ant", "bee", "cat", "dog")):
        shutil.copytree(digits / "train" / str(digit), real / name)
    evaluate(real, "--reference", real, "--out", tmp_path / "same", cache=cache)
    whole = report_of(tmp_path / "same")
    classifier = tmp_path / "same/classifier.safetensors"
    assert load_classifier(classifier).class_names == ("ant", "bee", "cat", "dog")
    assert whole["classifier_accuracy"] == whole["rows"][0]["recognised"] > 0.9

    some = tmp_path / "some"
    shutil.copytree(real, some)
    shutil.rmtree(some / "ant")
    for more in ([], ["--classifier", classifier]):
        out = tmp_path / f"some{len(more)}"
        evaluate(some, "--reference", real, *more, "--out", out, cache=cache)
        part = report_of(out)
        assert part["rows"][0]["recognised"] > 0.9
        assert {(one["name"], one["label"], one["real_label"]) for one in part["classes"]} == {
            ("bee", 0, 1),
            ("cat", 1, 2),
            ("dog", 2, 3),
        }
        assert all(abs(one["figures"]["frechet"]) < 1e-6 for one in part["classes"])
        assert not part["warnings"] or "matched" not in "".join(part["warnings"])

    other = tmp_path / "other"
    for digit, name in enumerate(("lynx", "kite", "ibex", "hare")):
        shutil.copytree(digits / "train" / str(digit), other / name)
    evaluate(other, "--reference", real, "--out", tmp_path / "unmatched", cache=cache)
    unmatched = report_of(tmp_path / "unmatched")
    assert unmatched["rows"][0]["recognised"] is None
    assert unmatched["classes"] == []
    said = [warning for warning in unmatched["warnings"] if "cannot be matched" in warning]
    assert len(said) == 2
    assert "(hare, ibex, kite, …) cannot be matched with those of the classifier" in said[0]
    text = (tmp_path / "unmatched/report.md").read_text()
    assert "so that `recognised` is left out (ant, bee, cat, …)" in text
    assert "| images | 25 | – |" in text  # though the reference is recognised
