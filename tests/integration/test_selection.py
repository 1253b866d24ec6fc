"""Folders as laboratories have them: plates in folders, channels in names, arrays of jobs."""

import json

import pytest
from folder_helpers import latest_records, names_of, noise, slide, write_image

from mediar_infer import cli
from mediar_infer.labels.reading import read_labels

pytestmark = pytest.mark.usefixtures("perfect_network")


@pytest.fixture
def plate(tmp_path):
    """Six images in folders of folders, two of them of another channel."""
    for seed, name in enumerate(("p1/w1/f", "p1/w2/f", "p2/w1/f", "top")):
        write_image(tmp_path / "in" / f"{name}_ch1.png", slide(seed)[0])
    for name in ("p1/w1/f", "top"):
        write_image(tmp_path / "in" / f"{name}_ch2.png", noise(20, 30))
    return tmp_path / "in"


def files_of(folder):
    """Every file of a folder and the folders below → its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def labels_of(folder):
    return {name: data for name, data in files_of(folder).items() if name.endswith("_label.tiff")}


def summary_of(folder, name="summary.json"):
    return json.loads((folder / name).read_text())


def test_folders_of_results_mirror_those_of_images(predict, plate, tmp_path):
    options = ("-r", "--pattern", "*_ch1.png", "--overlays")
    assert predict(plate, tmp_path / "out", *options) == 0
    stems = ["p1/w1/f_ch1_label", "p1/w2/f_ch1_label", "p2/w1/f_ch1_label", "top_ch1_label"]
    expected = [f"{stem}.tiff" for stem in stems] + [f"overlays/{stem}.png" for stem in stems]
    assert sorted(files_of(tmp_path / "out")) == sorted([*expected, "ledger.jsonl", "summary.json"])
    for seed, stem in enumerate(stems):
        assert read_labels(tmp_path / "out" / f"{stem}.tiff").max() == slide(seed)[1].max()
    record = latest_records(tmp_path / "out")["p1/w1/f_ch1.png"]
    assert record["output"] == "p1/w1/f_ch1_label.tiff"


def test_labels_do_not_depend_on_how_images_are_given(predict, plate, tmp_path):
    assert predict(plate / "p1" / "w1", tmp_path / "flat") == 0
    assert predict(plate, tmp_path / "deep", "-r") == 0
    listed = tmp_path / "list.txt"
    listed.write_text("# one well\nin/p1/w1/f_ch1.png\n")
    assert predict(f"@{listed}", tmp_path / "listed") == 0
    name = "f_ch1_label.tiff"
    expected = (tmp_path / "flat" / name).read_bytes()
    assert (tmp_path / "deep" / "p1" / "w1" / name).read_bytes() == expected
    assert (tmp_path / "listed" / "in" / "p1" / "w1" / name).read_bytes() == expected


def test_run_that_was_stopped_is_resumed_in_every_folder(predict, plate, tmp_path, capsys):
    out = tmp_path / "out"
    predict(plate, out, "-r", "--overlays")
    before = labels_of(out)
    (out / "p1" / "w2" / "f_ch1_label.tiff").unlink()
    (out / "p2" / "w1" / ".f_ch1_label.tiff.99999.part").touch()
    assert predict(plate, out, "-r", "--overlays", "--resume") == 0
    assert labels_of(out) == before
    assert not list(out.rglob(".*.part"))
    statuses = {name: record["status"] for name, record in latest_records(out).items()}
    assert [name for name, status in statuses.items() if status == "done"] == ["p1/w2/f_ch1.png"]
    assert "p1/w2/f_ch1.png" in capsys.readouterr().out


def test_errors_and_ledger_name_an_image_with_its_folder(predict, plate, tmp_path, capsys):
    (plate / "p1" / "w1" / "f_ch1.png").write_bytes(b"")
    assert predict(plate, tmp_path / "out", "-r") == 1
    record = latest_records(tmp_path / "out")["p1/w1/f_ch1.png"]
    assert record["error"].startswith("p1/w1/f_ch1.png: found an empty file (0 bytes), expected")
    assert record["error"] in capsys.readouterr().err


def test_missing_image_of_a_list_is_a_failure_of_its_own(predict, plate, tmp_path):
    (plate / "list.txt").write_text("p1/w1/f_ch1.png\np1/w1/nowhere.png\n")
    assert predict(f"@{plate}/list.txt", tmp_path / "out") == 1
    records = latest_records(tmp_path / "out")
    assert records["p1/w1/f_ch1.png"]["status"] == "done"
    assert (
        "p1/w1/nowhere.png: found a file that cannot be opened"
        in (records["p1/w1/nowhere.png"]["error"])
    )


def test_several_inputs_are_one_run(predict, plate, tmp_path):
    options = ("-i", plate / "p2" / "w1", plate / "top_ch1.png")
    assert predict(plate / "p1" / "w1", tmp_path / "out", *options) == 0
    assert sorted(labels_of(tmp_path / "out")) == [
        "p1/w1/f_ch1_label.tiff", "p1/w1/f_ch2_label.tiff",
        "p2/w1/f_ch1_label.tiff", "top_ch1_label.tiff",
    ]  # fmt: skip


def test_output_folder_may_lie_inside_the_input_folder(predict, plate):
    assert predict(plate, plate / "out", "-r") == 0
    first = labels_of(plate / "out")
    assert predict(plate, plate / "again", "-r") == 0
    assert labels_of(plate / "again") == first
    assert len(first) == 6


@pytest.mark.parametrize("place", ["in", "in/p1"])
def test_labels_are_never_written_between_images(predict, plate, tmp_path, place, capsys):
    options = ("-i", plate / "p1", "-r")
    assert predict(plate, tmp_path / place, *options) == 2
    assert "input and output folder are the same" in capsys.readouterr().err
    assert not labels_of(plate)


def test_names_with_dots_are_kept_on_request(predict, tmp_path, capsys):
    for seed, name in enumerate(("exp.2024.w1", "exp.2024.w2")):
        write_image(tmp_path / "in" / f"{name}.tif", slide(seed)[0])
    assert predict(tmp_path / "in", tmp_path / "out") == 1
    assert "keep the dots in results with --names full" in capsys.readouterr().err
    options = ("--names", "full", "--overlays")
    assert predict(tmp_path / "in", tmp_path / "out", *options) == 0
    assert sorted(labels_of(tmp_path / "out")) == [
        "exp.2024.w1_label.tiff", "exp.2024.w2_label.tiff",
    ]  # fmt: skip
    assert names_of(tmp_path / "out" / "overlays") == [
        "exp.2024.w1_label.png", "exp.2024.w2_label.png",
    ]  # fmt: skip
    assert predict(tmp_path / "in", tmp_path / "out", *options, "--resume") == 0
    assert {r["status"] for r in latest_records(tmp_path / "out").values()} == {"resumed"}


def test_pattern_that_nothing_matches_is_told(predict, plate, tmp_path, capsys):
    assert predict(plate, tmp_path / "out", "--pattern", "*.xyz", "*.dat") == 1
    assert "found no image that matches *.xyz *.dat" in capsys.readouterr().err


def test_parts_together_do_what_one_run_does(predict, plate, tmp_path, capsys):
    assert predict(plate, tmp_path / "whole", "-r") == 0
    out = tmp_path / "out"
    for number in (3, 1, 4, 2):
        assert predict(plate, out, "-r", "--part", f"{number}/4") == 0
    assert labels_of(out) == labels_of(tmp_path / "whole")
    assert cli.main(["ledger", "merge", str(out)]) == 0
    assert capsys.readouterr().out.endswith("4 parts, complete: 6 done\n")
    whole, merged = (summary_of(folder) for folder in (tmp_path / "whole", out))
    for key in ("n_files", "status", "n_cells", "megapixels", "config", "versions", "failed"):
        assert merged[key] == whole[key]
    assert list(latest_records(out)) == list(latest_records(tmp_path / "whole"))
    before = (out / "ledger.jsonl").read_bytes()
    assert cli.main(["ledger", "merge", str(out)]) == 0
    assert (out / "ledger.jsonl").read_bytes() == before


def test_each_part_has_a_report_of_its_own(predict, plate, tmp_path):
    out = tmp_path / "out"
    for number in (1, 2):
        assert predict(plate, out, "-r", "--part", f"{number}/2", "--report") == 0
    reports = [name for name in names_of(out) if name.endswith(".html")]
    assert reports == ["report.1of2.html", "report.2of2.html"]


def test_parts_leave_each_others_files_alone(predict, plate, tmp_path):
    out = tmp_path / "out"
    mine, other = out / "p1" / "w1", out / "p1" / "w2"
    for folder in (mine, other):
        folder.mkdir(parents=True)
        (folder / ".f_ch1_label.tiff.99999.part").touch()
    assert predict(plate, out, "-r", "--part", "1/6") == 0
    assert names_of(mine) == ["f_ch1_label.tiff"]
    assert names_of(other) == [".f_ch1_label.tiff.99999.part"]
    assert names_of(out) == ["ledger.1of6.jsonl", "p1", "summary.1of6.json"]


def test_merging_tells_what_is_missing(predict, plate, tmp_path, capsys):
    out = tmp_path / "out"
    for number in (1, 2):
        assert predict(plate, out, "-r", "--part", f"{number}/3") == 0
    # What a kill after the first image of part 2 leaves.
    summary = summary_of(out, "summary.2of3.json")
    summary["part"]["is_finished"] = False
    (out / "summary.2of3.json").write_text(json.dumps(summary))
    ledger = out / "ledger.2of3.jsonl"
    ledger.write_text(ledger.read_text().splitlines(keepends=True)[0] + '{"file": "p2')
    assert cli.main(["ledger", "merge", str(out)]) == 1
    shown = capsys.readouterr()
    assert (
        "part 2 of 3: found no entry of 1 of its 2 images (top_ch1.png), expected one each;"
        " run it again with --part 2/3 --resume" in shown.err
    )
    assert "part 3 of 3: found no summary, expected summary.3of3.json" in shown.err
    assert "ledger.2of3.jsonl: line 2 is not a ledger entry" in shown.err
    assert shown.out.endswith("3 parts, incomplete: 3 done\n")
    for number in (2, 3):
        assert predict(plate, out, "-r", "--part", f"{number}/3", "--resume") == 0
    capsys.readouterr()
    assert cli.main(["ledger", "merge", str(out)]) == 1  # the torn line
    assert summary_of(out)["n_files"] == 6
    assert summary_of(out)["status"]["resumed"] == 2


def test_images_that_came_while_parts_ran_are_told(predict, plate, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(plate, out, "-r", "--part", "1/2") == 0
    write_image(plate / "new.png", noise(20, 30))
    assert predict(plate, out, "-r", "--part", "2/2") == 0
    assert cli.main(["ledger", "merge", str(out)]) == 1
    assert "parts found different images in the input folder (6, 7 images)" in (
        capsys.readouterr().err
    )
    for number in (1, 2):
        assert predict(plate, out, "-r", "--part", f"{number}/2", "--resume") == 0
    assert cli.main(["ledger", "merge", str(out)]) == 0
    assert summary_of(out)["n_files"] == 7
    (plate / "new.png").unlink()
    for number in (1, 2):
        assert predict(plate, out, "-r", "--part", f"{number}/2", "--resume") == 0
    assert cli.main(["ledger", "merge", str(out)]) == 0
    assert summary_of(out)["n_files"] == 6


def test_parts_with_other_settings_or_of_another_run_are_told(predict, plate, tmp_path, capsys):
    out = tmp_path / "out"
    predict(plate, out, "-r", "--part", "1/2")
    predict(plate, out, "-r", "--part", "2/2", "--overlap", "0.5")
    assert cli.main(["ledger", "merge", str(out)]) == 1
    assert "parts were run with different settings" in capsys.readouterr().err
    predict(plate, out, "-r", "--part", "1/3")
    assert cli.main(["ledger", "merge", str(out)]) == 1
    assert "found parts of 2 and of 3, expected those of one run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "found"),
    [("weights", "different weights"), ("versions", "different versions of mediar_infer")],
)
def test_parts_with_other_weights_or_versions_are_told(
    predict, plate, tmp_path, capsys, field, found
):
    out = tmp_path / "out"
    for number in (1, 2):
        predict(plate, out, "-r", "--part", f"{number}/2")
    ledger = out / "ledger.2of2.jsonl"
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    for record in records:
        record[field] = {"mediar_infer": "another"}
    ledger.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert cli.main(["ledger", "merge", str(out)]) == 1
    assert f"parts were run with {found}, expected the same" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"part": {"images": []}}', "\0"])
def test_damaged_summary_of_a_part_is_told(predict, plate, tmp_path, capsys, content):
    out = tmp_path / "out"
    predict(plate, out, "-r", "--part", "1/1")
    (out / "summary.1of1.json").write_text(content)
    assert cli.main(["ledger", "merge", str(out)]) == 1
    assert "found no summary of a part; it is ignored" in capsys.readouterr().err


def test_merging_what_is_not_there_is_wrong_use(tmp_path, capsys):
    assert cli.main(["ledger", "merge", str(tmp_path)]) == 2
    assert "found no ledger of a part, expected files such as ledger.1of10.jsonl" in (
        capsys.readouterr().err
    )
    assert cli.main(["ledger", "merge", str(tmp_path / "nowhere")]) == 2
    assert names_of(tmp_path) == []


def test_part_without_images_is_complete(predict, plate, tmp_path):
    out = tmp_path / "out"
    for number in (1, 2, 3):
        assert predict(plate, out, "--part", f"{number}/3") == 0
    assert cli.main(["ledger", "merge", str(out)]) == 0
    assert summary_of(out)["status"] == {"done": 2, "failed": 0, "skipped": 2, "resumed": 0}


def test_folders_that_are_not_searched_are_named(predict, plate, tmp_path, capsys):
    assert predict(plate, tmp_path / "out") == 0
    assert "INFO 2 sub-folder(s) are not searched: p1, p2; add --recursive if" in (
        capsys.readouterr().err
    )
    assert predict(plate, tmp_path / "deep", "-r") == 0
    assert "not searched" not in capsys.readouterr().err


def test_a_pattern_that_nothing_matches_advises_what_is_left_to_try(
    predict, plate, tmp_path, capsys
):
    for options, advice in (((), "--input, and --recursive for folders"), (("-r",), "--input\n")):
        assert predict(plate, tmp_path / "out", *options, "--pattern", "*.lif") == 1
        assert advice in capsys.readouterr().err
