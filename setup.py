"""The build step that pyproject.toml cannot express: ``weights/`` becomes package data."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

WEIGHTS = Path("weights")
SHIPPED = ("*.safetensors", "*.int8", "graph_*", "manifest.json", "README.md")
"""The pair, ranges for int8, graph and model card; folders with other weights stay out."""


class BuildWithWeights(build_py):
    """Copies the shipped weights to ``mediar_infer/weights``."""

    def run(self) -> None:
        """Build the modules, then copy; an editable install finds the folder of the checkout."""
        if self.editable_mode:
            super().run()
            return
        # Leftovers of an earlier build would get into the wheel.
        shutil.rmtree(Path(self.build_lib, "mediar_infer"), ignore_errors=True)
        super().run()
        for source, target in self._copies().items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """List what is built, for installers."""
        outputs: list[str] = super().get_outputs(include_bytecode)
        return outputs + [str(target) for target in self._copies().values()]

    def _copies(self) -> dict[Path, Path]:
        folder = Path(self.build_lib, "mediar_infer", "weights")
        sources = sorted(path for pattern in SHIPPED for path in WEIGHTS.glob(pattern))
        return {source: folder / source.name for source in sources}


setup(cmdclass={"build_py": BuildWithWeights})
