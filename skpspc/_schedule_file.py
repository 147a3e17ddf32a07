"""A schedule of patch sizes in a file: JSON that people can read and write."""

import json


def schedule_text(schedule, **more):
    """A schedule as JSON, one line for each entry.

    Parameters
    ----------
    schedule : PatchSchedule
    **more : dict
        What else to write down, as JSON knows it.

    Returns
    -------
    str
    """
    entries = {"sigmas": list(schedule.sigmas), "sizes": list(schedule.sizes), **more}
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in entries.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_schedule(path):
    """The schedule in a file; what else it says is passed over.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    PatchSchedule

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it does not hold a schedule.
    """
    from ._input import parse_json, read_file, reading, text_limit
    from ._limits import MAX_BYTES
    from .sampling import PatchSchedule

    remedy = 'give what `skpspc calibrate` writes, or {"sigmas": [0.1, 1.0], "sizes": [3, 7]}'
    with reading(path, "holds no schedule", remedy):
        entries = parse_json(read_file(path, text_limit(MAX_BYTES), MAX_BYTES))
        return PatchSchedule(entries["sigmas"], entries["sizes"])
