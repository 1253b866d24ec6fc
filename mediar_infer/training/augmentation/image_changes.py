"""What all random changes of an image have in common: how often, and of which entry."""

from collections.abc import Hashable, Mapping
from typing import Any

from monai import transforms
from torch import Tensor


class RandImaged(transforms.RandomizableTransform, transforms.MapTransform):  # type: ignore[misc]
    """A random change of the image alone; the base of many.

    Args:
        keys: of the image.
        prob: how often it is changed.
    """

    def __init__(self, keys: str, *, prob: float) -> None:
        transforms.MapTransform.__init__(self, keys)
        transforms.RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Change the image with the probability given."""
        changed = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.key_iterator(changed):
                changed[key] = self.change(changed[key])
        return changed

    def change(self, image: Tensor) -> Tensor:
        """Change ``(3, S, S)`` float32."""
        raise NotImplementedError
