"""Damaged files, read one after the other in a process with little memory.

``python fuzz_run.py TARGET SEED FIRST STOP FOLDER`` reads the cases FIRST … STOP - 1 and writes to
the folder how many ended as an image or an error of the package, and every foreign error. A case
depends on the target, the seed and its number alone. ``make fuzz`` runs many: see ``main``.
"""

import argparse
import contextlib
import faulthandler
import json
import logging
import random
import resource
import subprocess
import sys
import time
import traceback
import warnings
from functools import cache
from pathlib import Path

HANG_S = 20
"""Longest that one file may take."""
MEMORY_BYTES = 2 * 2**30
"""Most memory that reading may take, beside what importing took."""
_AT_WORK, _FOUND = "at_work", "found.json"
_ROWS_PIXELS = 2**22
_MAX_READ_PIXELS = 2**25
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # for what the tests share


def _read_image(path):
    from mediar_infer.engine.preprocess import compute_scaling
    from mediar_infer.images.open import open_image

    with open_image(path) as source:
        step = max(1, _ROWS_PIXELS // source.width)
        height = min(source.height, max(1, _MAX_READ_PIXELS // source.width))
        for top in range(0, height, step):
            rows = source.read_rows(top, min(top + step, height))
            assert rows.shape[1:] == (source.width, 3), rows.shape
        if source.height * source.width <= _ROWS_PIXELS:
            compute_scaling(source)


def _read_labels(path):
    from mediar_infer.errors import ImageReadError
    from mediar_infer.labels.files import read_label_header
    from mediar_infer.labels.reading import read_labels

    with contextlib.suppress(ImageReadError):
        read_label_header(path)
    labels = read_labels(path)
    assert labels.ndim == 2, labels.shape


def _read_weights(path):
    from mediar_infer.network.checkpoints import load_checkpoint

    load_checkpoint(path)


def _read_recipe(path):
    from mediar_infer.training.stages.recipe_files import read_recipe

    read_recipe(path)


def _read_inputs(path):
    from mediar_infer.grand_challenge.sockets import find_image, read_sockets

    folder = path.parent
    for name in ("images/a", "images/b"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "a.mha").touch()
    for socket in read_sockets(folder):
        if socket.is_image:
            find_image(folder, socket)


@cache
def _seeds(target):
    """Name → bytes of the valid files of a target."""
    import fuzz_seeds

    match target:
        case "images":
            return fuzz_seeds.images()
        case "labels":
            return fuzz_seeds.label_files()
        case "weights":
            return fuzz_seeds.weight_files()
        case "recipes":
            folder = ROOT / "mediar_infer" / "training" / "recipes"
            return {path.name: path.read_bytes() for path in sorted(folder.glob("*.toml"))}
        case "inputs":
            entry = {"socket": {"slug": "a", "relative_path": "images/a", "super_kind": "Image"}}
            value = {"interface": {"slug": "b", "relative_path": "b.json", "kind": "Anything"}}
            text = json.dumps([{**entry, "image": {"name": "a.mha"}}, value], indent=1)
            return {"inputs.json": text.encode()}
        case _:
            return {}


_READERS = {
    "images": _read_image,
    "tags": _read_image,
    "labels": _read_labels,
    "weights": _read_weights,
    "recipes": _read_recipe,
    "inputs": _read_inputs,
}
TARGETS = tuple(_READERS)


def make_case(target, seed, number):
    """Name and content of one damaged file."""
    import fuzz_mutations
    import fuzz_tags

    rng = random.Random(f"{target} {seed} {number}")
    if target == "tags":
        return "tags.tif", fuzz_tags.random_tiff(rng)
    seeds = _seeds(target)
    name = rng.choice(list(seeds))
    if target in ("recipes", "inputs"):
        return name, fuzz_mutations.mutate_text(rng, seeds[name].decode())
    return name, fuzz_mutations.mutate(rng, name, seeds[name])


def _limit_memory():
    """Let the process grow by no more than the limit from here on."""
    status = Path("/proc/self/status").read_text()
    (size,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmSize"))
    limit = int(size) * 1024 + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def run_cases(target, seed, first, stop, folder):
    """Read cases in this process; see the module's docstring."""
    from mediar_infer.errors import MediarError

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    found = {"read": 0, "refused": 0, "foreign": [], "slowest_s": 0.0, "peak_bytes": 0}
    if target in ("labels", "tags", "images"):  # imported before memory is limited
        import cv2  # noqa: F401
        import imagecodecs  # noqa: F401
    name, data = make_case(target, seed, first)
    (folder / name).write_bytes(data)
    with contextlib.suppress(Exception):
        _READERS[target](folder / name)
    _limit_memory()
    for number in range(first, stop):
        name, data = make_case(target, seed, number)
        (folder / name).write_bytes(data)
        (folder / _AT_WORK).write_text(str(number))
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        started = time.monotonic()
        try:
            _READERS[target](folder / name)
            found["read"] += 1
        except MediarError as error:
            found["refused"] += 1
            if "expected" not in str(error) and "; " not in str(error):
                found["foreign"].append([number, name, f"without a remedy: {error}"])
        except BaseException as error:  # noqa: BLE001  (what this looks for)
            place = traceback.format_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error}"[:300]
            found["foreign"].append([number, name, text, place])
        found["slowest_s"] = max(found["slowest_s"], time.monotonic() - started)
        found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        faulthandler.cancel_dump_traceback_later()
        (folder / _FOUND).write_text(json.dumps(found))  # for the case that the next one crashes


def run_process(target, seed, first, stop, folder):
    """Read cases in a process of their own; a crash or hang is found, and the rest is done.

    Returns:
        The sum of what its processes found, with ``crashes``.
    """
    total = {"read": 0, "refused": 0, "foreign": [], "crashes": [], "slowest_s": 0.0}
    total["peak_bytes"] = 0
    while first < stop:
        command = [sys.executable, __file__, target, str(seed), str(first), str(stop), str(folder)]
        for name in (_AT_WORK, _FOUND):
            (folder / name).unlink(missing_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if (folder / _FOUND).is_file():
            found = json.loads((folder / _FOUND).read_text())
            for key in ("read", "refused", "foreign"):
                total[key] += found[key]
            for key in ("slowest_s", "peak_bytes"):
                total[key] = max(total[key], found[key])
        if done.returncode == 0:
            break
        at_work = folder / _AT_WORK
        number = int(at_work.read_text()) if at_work.is_file() else first
        total["crashes"].append([number, done.returncode, done.stderr[-1500:]])
        first = number + 1
    return total


def main(arguments=None):
    """Fuzz at length: ``python fuzz_run.py --count 20000 --seed 1`` for every target."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=5000, help="cases per target")
    parser.add_argument("--seed", type=int, default=1, help="first seed")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder")
    args = parser.parse_args(arguments)
    is_clean = True
    for target in args.targets:
        folder = args.folder / target
        folder.mkdir(parents=True, exist_ok=True)
        found = run_process(target, args.seed, 0, args.count, folder)
        sys.stdout.write(
            f"{target}: {args.count} files, {found['read']} read, {found['refused']} refused,"
            f" {len(found['foreign'])} foreign errors, {len(found['crashes'])} crashes or hangs,"
            f" slowest {found['slowest_s']:.1f} s, peak {found['peak_bytes'] / 2**20:.0f} MiB\n"
        )
        for problem in found["foreign"] + found["crashes"]:
            sys.stdout.write(f"  {problem}\n")
        sys.stdout.flush()
        is_clean &= not (found["foreign"] or found["crashes"])
    return 0 if is_clean else 1


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in TARGETS:
        kind, *numbers, place = sys.argv[1:]
        run_cases(kind, *map(int, numbers), Path(place))
    else:
        raise SystemExit(main())
