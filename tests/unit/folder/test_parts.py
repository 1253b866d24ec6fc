"""Parts of a run share its images out without rest."""

import pytest

from mediar_infer.errors import UsageError
from mediar_infer.folder.parts import RunPart


@pytest.mark.parametrize("n_parts", [1, 2, 3, 7, 12])
def test_every_image_is_in_one_part(n_parts):
    images = list(range(1, 11))
    parts = [RunPart(number, n_parts).choose(images) for number in range(1, n_parts + 1)]
    assert sorted(sum(parts, ())) == images
    assert all(image % n_parts == number % n_parts
               for number, part in enumerate(parts, start=1) for image in part)  # fmt: skip


def test_files_of_a_part_have_names_of_their_own():
    assert RunPart.parse("3/10").rename("ledger.jsonl") == "ledger.3of10.jsonl"
    assert RunPart.parse("3/10").rename(".at-work.jsonl") == ".at-work.3of10.jsonl"


@pytest.mark.parametrize("text", ["3", "3/", "/3", "a/b", "-1/3", "1/3/3", "1.0/3", "²/3", ""])
def test_anything_else_is_wrong_use(text):
    with pytest.raises(UsageError, match=r"expected I/N, such as 3/10"):
        RunPart.parse(text)


@pytest.mark.parametrize("text", [f"1/{'5' * 5000}", f"{'5' * 5000}/1", f"1/{10**9}"])
def test_numbers_too_long_for_the_name_of_a_file_are_wrong_use(text):
    with pytest.raises(UsageError, match=r"expected I/N, such as 3/10") as caught:
        RunPart.parse(text)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("text", ["0/3", "4/3", "0/0"])
def test_parts_are_counted_from_one(text):
    with pytest.raises(UsageError, match=r"count jobs from 1, such as with --array=1-"):
        RunPart.parse(text)
