"""A schedule of patch sizes in a JSON file that people can read and write."""

import json


def schedule_text(schedule, **entries):
    """Return a `PatchSchedule` and further entries as JSON, one line for each entry."""
    entries = {"sigmas": list(schedule.sigmas), "sizes": list(schedule.sizes), **entries}
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_schedule(path):
    """Return the `PatchSchedule` in a file, whose other entries are ignored.

    Raises OSError if the file cannot be read, ValueError if it does not hold a schedule.
    """
    from .._input import MAX_BYTES, parse_json, read_file, reading, text_limit
    from ..sampling import PatchSchedule

    remedy = 'give what `skpspc calibrate` writes, or {"sigmas": [0.1, 1.0], "sizes": [3, 7]}'
    with reading(path, "holds no schedule", remedy):
        entries = parse_json(read_file(path, text_limit(MAX_BYTES), MAX_BYTES))
        return PatchSchedule(entries["sigmas"], entries["sizes"])
