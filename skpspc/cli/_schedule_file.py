"""A schedule of patch sizes as a JSON file."""

import json


def schedule_text(schedule, **entries):
    """Return a `PatchSchedule` and further entries as JSON, one line for each entry."""
    entries = {"sigmas": list(schedule.sigmas), "sizes": list(schedule.sizes), **entries}
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_schedule(path):
    """Return the `PatchSchedule` in a file; other entries of the file are ignored.

    Raises OSError if the file cannot be read, ValueError if it does not hold a schedule.
    """
    from .._input import MAX_BYTES, parse_json, read_file, reading, text_limit
    from ..sampling import PatchSchedule

    remedy = 'pass a file of `skpspc calibrate`, or {"sigmas": [0.1, 1.0], "sizes": [3, 7]}'
    with reading(path, "holds no schedule", remedy):
        entries = parse_json(read_file(path, text_limit(MAX_BYTES), MAX_BYTES))
        return PatchSchedule(entries["sigmas"], entries["sizes"])
