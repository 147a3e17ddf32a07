"""A schedule of patch sizes as a JSON file."""

import json
from pathlib import Path
from typing import Any, NamedTuple


class ScheduleFile(NamedTuple):
    """A schedule read from a file.

    Attributes
    ----------
    path : Path
        The file.
    schedule : PatchSchedule
        Patch sizes by noise level.
    image_shape : tuple of (C, H, W) or None
        Shape of the images that the sizes were chosen on; None if the file does not say.
    """

    path: Path
    schedule: Any
    image_shape: tuple[int, int, int] | None

    def check_fits(self, images):
        """Raise if images (n, C, H, W) have another height or width than the file's images."""
        if self.image_shape is None or self.image_shape[1:] == tuple(images.shape[2:]):
            return
        chosen, given = (
            " x ".join(map(str, sides)) for sides in (self.image_shape[1:], images.shape[2:])
        )
        raise ValueError(
            f"'{self.path}' has patch sizes chosen on images of {chosen} pixels, and the training "
            f"images have {given}; run `skpspc calibrate` on these images, or use the same "
            "--image-size."
        )


def schedule_text(schedule, **entries):
    """Return a `PatchSchedule` and further entries as JSON, one line for each entry."""
    entries = {"sigmas": list(schedule.sigmas), "sizes": list(schedule.sizes), **entries}
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_schedule(path):
    """Return the `ScheduleFile` at a path; entries without a meaning are ignored.

    Raises OSError if the file cannot be read, ValueError if it does not hold a schedule.
    """
    from .._input import MAX_BYTES, parse_json, read_file, reading, text_limit
    from ..sampling import PatchSchedule

    remedy = 'pass a file of `skpspc calibrate`, or {"sigmas": [0.1, 1.0], "sizes": [3, 7]}'
    with reading(path, "holds no schedule", remedy):
        entries = parse_json(read_file(path, text_limit(MAX_BYTES), MAX_BYTES))
        schedule = PatchSchedule(entries["sigmas"], entries["sizes"])
        return ScheduleFile(path, schedule, _image_shape(entries))


def _image_shape(entries):
    """Return the entry ``image_shape`` as a tuple, or None where a file lacks it."""
    shape = entries.get("image_shape")
    if shape is None:
        return None
    is_list = isinstance(shape, list) and len(shape) == 3
    if not (is_list and all(type(side) is int and side >= 1 for side in shape)):
        raise ValueError(f"image_shape must be three positive integers, got {shape!r}")
    return tuple(shape)
