# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # First steps: cells in your images
#
# In a quarter of an hour: segment one image, look at the outlines, measure every cell, then do the same for a folder of
# your own images. Run the cells from top to bottom with Shift+Enter.
#
# ## 1. Install
#
# Once per computer, or per session in Colab, where a GPU can be chosen in the menu *Runtime → Change runtime type*. Both
# work: a GPU takes a second per image, two CPU cores about twelve seconds per megapixel.

# %%
# Remove the "#" in Colab or in a fresh environment; ADDRESS is that of the repository.
# # !git clone ADDRESS mediar && pip install --quiet -e "mediar[gpu]" matplotlib

# %%
import csv
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tifffile

from mediar_infer import EngineConfig, Plan, Segmenter, open_image, read_labels

# %% [markdown]
# ## 2. One image
#
# A drawn image of stained nuclei, so that there is something to begin with. An array of your own, `(rows, columns)` or
# `(rows, columns, channels)`, does as well.

# %%
from mediar_infer.demo.scenes import make_scene

image, _ = make_scene("fluorescence", 384, 512, seed=3)
plt.imshow(image, cmap="gray")
plt.axis("off")
plt.show()

# %% [markdown]
# `Segmenter` loads the networks once; `segment` then takes as many images as you like. `plan`
# is the quickest one: one network, one look at the image. Without it both networks look three times, which takes about
# twenty times as long and is a little better.

# %%
plan = Plan(name="fast", max_members=1, flips=("identity",), overlap=0.25)
segmenter = Segmenter.from_weights(config=EngineConfig(plan=plan))
result = segmenter.segment(image)
print(f"{result.n_cells} cells")
for warning in result.warnings:
    print("Note:", warning)

# %% [markdown]
# `result.labels` is an image of numbers: 0 is background, the pixels of the first cell are 1, those of the second 2 …


# %%
def show_labels(image, labels, title):
    """Show an image with the outlines of its cells, and the cells in colours."""
    _, (left, right) = plt.subplots(1, 2, figsize=(12, 5))
    left.imshow(image, cmap="gray")
    # A pixel is on an outline if the one below or to the right has another number.
    outline = np.zeros(labels.shape, bool)
    outline[:-1] |= labels[:-1] != labels[1:]
    outline[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    left.imshow(np.ma.masked_where(~outline, outline), cmap="autumn", interpolation="nearest")
    colours = np.random.default_rng(0).permutation(labels.max() + 1)
    colours[colours == 0], colours[0] = colours[0], 0
    right.imshow(np.ma.masked_equal(colours[labels], 0), cmap="turbo", interpolation="nearest")
    right.set_facecolor("black")
    left.set_title(title)
    right.set_title(f"{labels.max()} cells")
    for axis in (left, right):
        axis.set_xticks([])
        axis.set_yticks([])
    plt.show()


show_labels(image, result.labels, "one image")

# %% [markdown]
# The sizes of the cells, in pixels. A microscope's pixel size makes square micrometres of them; the folder below does
# that by itself where the files state it.

# %%
areas = np.bincount(result.labels.ravel())[1:]
print(f"median area {np.median(areas):.0f} pixels, from {areas.min()} to {areas.max()}")
plt.hist(areas, bins=20)
plt.xlabel("area of a cell / pixels")
plt.ylabel("cells")
plt.show()

# %% [markdown]
# ## 3. A folder of your own
#
# Put the path of your folder here; images lie in it or in folders below it. As long as it does not exist, three drawn
# images are written there.

# %%
FOLDER = Path("my_images")
RESULTS = Path("my_results")

if not FOLDER.exists():
    for seed, day in enumerate(("day1", "day1", "day2")):
        (FOLDER / day).mkdir(parents=True, exist_ok=True)
        drawn, _ = make_scene("fluorescence", 256, 256, seed=seed)
        tifffile.imwrite(FOLDER / day / f"field{seed}.tif", drawn)

# %% [markdown]
# The same as in a terminal:
#
# ```sh
# mediar-infer predict -i my_images -o my_results --recursive --table cells.csv --report
# ```
#
# `--resume` makes a second run skip what is done.

# %%
command = [sys.executable, "-m", "mediar_infer", "predict", "-i", FOLDER, "-o", RESULTS]
command += ["--recursive", "--resume", "--plan", "fast", "--table", "cells.csv", "--report"]
done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
print(done.stdout)
print(done.stderr if done.returncode else "")

# %% [markdown]
# Open `my_results/report.html` in a browser: every image with its outlines. `my_results/cells.csv` opens in any
# spreadsheet and has one row per cell. Here are the first rows:

# %%
with (RESULTS / "cells.csv").open(newline="") as file:
    cells = list(csv.DictReader(file))
print(f"{len(cells)} cells in {len({cell['image'] for cell in cells})} images")
for cell in cells[:5]:
    print(dict(list(cell.items())[:6]))

# %% [markdown]
# Cells per image, then one image with its labels. Label files lie in folders of the same names as the images.

# %%
counts = {}
for cell in cells:
    counts[cell["image"]] = counts.get(cell["image"], 0) + 1
plt.bar(list(counts), list(counts.values()))
plt.ylabel("cells")
plt.show()

# %%
label_file = sorted(RESULTS.rglob("*_label.tiff"))[0]
relative = label_file.relative_to(RESULTS)
image_file = next((FOLDER / relative.parent).glob(relative.name.removesuffix("_label.tiff") + ".*"))
with open_image(image_file) as source:
    pixels = source.read_rows(0, source.height)
show_labels(pixels / pixels.max(), read_labels(label_file), image_file.name)

# %% [markdown]
# ## If the outlines look wrong
#
# - Few or no cells, although they are clearly visible: `--flow-threshold 0.8`, or `none`.
# - Background is outlined: `--cellprob-threshold 0.7`.
# - Cells much smaller than 15 or larger than 90 pixels across: resize the images first.
# - One channel of several: `--channels DAPI`, or `--pattern '*_ch1.tif'` if each is a file.
#
# The guide *A folder of images* has more, and says how to tune the networks on ten images of your own.
