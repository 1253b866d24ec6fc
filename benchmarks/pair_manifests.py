r"""Manifests of the images that the default pair is trained on, and of those that it is chosen by.

    python benchmarks/pair_manifests.py DIR DIR --output FOLDER

``everything.csv`` has all training images, ``chosen_by.csv`` the same with a hold-out for choices:
four whole sources and some images of others (split val). Images of the data's own split val are in
neither: they give the figures of the model card and are looked at for nothing else. Labels that lie
beside their cells are moved; the copies are in ``labels/``.
"""

import csv
import random
from collections import defaultdict
from pathlib import Path

import common
import tifffile
from scipy import ndimage

LEFT_OUT = ("scell_style1", "rbc_0d095f3a")
"""Starts of ids: labels of one size set by hand where hardly anything is to be seen; debris."""
MOVED = {
    "deepliif_ihc_bladder1": (1, 6),
    "deepliif_ihc_lung1": (-8, 0),
    "deepliif_mif_bladder1": (3, -4),
    "deepliif_mif_lung1": (-3, 2),
}
"""Id → rows and columns by which its labels must move to lie on what they outline: where the
correlation with stain or light, and with what earlier networks predict, is highest."""
WHOLE_SOURCES = ("mdck_", "ecolifl_", "scell_cytomembrane", "scell_neurocyte")
"""Held out as a whole: what the network does there it has not learnt there."""
SINGLE_IMAGES = {
    ("dsb", "fluorescence_nuclei"): 8,
    ("dsb", "histology_stained"): 5,
    ("dsb", "cytology_brightfield_gray"): 1,
    ("bbbc039", "fluorescence_nuclei"): 2,
    ("usiigaci", "phase_contrast"): 3,
    ("wbc1", "blood_smear_stained"): 2,
    ("wbc2", "blood_smear_stained"): 2,
    ("rbc", "blood_smear_all_cells"): 3,
    ("scell_style2", "fluorescence_whole_cell"): 1,
    ("scell_macrophagocyte", "fluorescence_whole_cell"): 1,
}
"""(Start of the id, modality) → how many of its images are held out."""
SLIDES = 3
"""So many whole slides of ``kumar_`` are held out, as tiles of a slide are alike."""
SEED = 7
COLUMNS = ("id", "image", "label", "split", "modality", "source", "original_file")


def start_of(image_id: str) -> str:
    """Start of an id that tells its source and, for some sources, its kind."""
    parts = image_id.split("_")
    n_parts = 2 if parts[0] in ("scell", "labelfree", "deepliif") else 1
    return "_".join(parts[:n_parts])


def read_rows(folders: list[Path]) -> list[dict[str, str]]:
    """Training rows of the data sets' manifests, with absolute paths."""
    rows = []
    for folder in folders:
        with (folder / "manifest.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if row["split"] != "val" and not row["id"].startswith(LEFT_OUT):
                    paths = {key: str((folder / row[key]).absolute()) for key in ("image", "label")}
                    rows.append(row | paths | {"source": row["source_repo"]})
    return rows


def move_labels(row: dict[str, str], folder: Path) -> dict[str, str]:
    """The row with a moved copy of its labels; what enters at an edge is background."""
    if row["id"] not in MOVED:
        return row
    moved = ndimage.shift(tifffile.imread(row["label"]), MOVED[row["id"]], order=0)
    path = folder / Path(row["label"]).name
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, moved)
    return row | {"label": str(path.absolute())}


def draw_hold_out(rows: list[dict[str, str]]) -> set[str]:
    """Ids of the images that choices are made by."""
    rng = random.Random(SEED)
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        groups[start_of(row["id"]), row["modality"]].append(row["id"])
    held_out = {row["id"] for row in rows if row["id"].startswith(WHOLE_SOURCES)}
    for kind, number in SINGLE_IMAGES.items():
        held_out |= set(rng.sample(sorted(groups[kind]), number))
    slides = sorted({row["original_file"] for row in rows if row["id"].startswith("kumar")})
    chosen = set(rng.sample(slides, SLIDES))
    return held_out | {row["id"] for row in rows if row["original_file"] in chosen}


def main() -> None:
    parser = common.make_parser(__doc__)
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="data sets, each with manifest.csv"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for the manifests and moved labels"
    )
    args = parser.parse_args()
    rows = [move_labels(row, args.output / "labels") for row in read_rows(args.folders)]
    held_out = draw_hold_out(rows)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, ids in (("everything", set()), ("chosen_by", held_out)):
        with (args.output / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow(row | {"split": "val" if row["id"] in ids else "train"})
        print(f"{name}: {len(rows)} images, {len(ids)} held out")


if __name__ == "__main__":
    main()
