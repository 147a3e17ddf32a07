"""Training images mapped to a file: read ahead, checked before a pass, never copied in silence.

A tensor does not say that its memory is a file. Mappings are therefore noted by their address when
an array becomes a tensor, so that every view of the images, such as a crop, is recognised.
"""

import mmap
import os
from weakref import WeakKeyDictionary

import numpy as np
from sklearn import get_config

from ._threads import ForkSafeLock

_SHRUNK = "copy the complete file to its place, open it again and fit again"


class MappedFile:
    """Place and state of a file when it was first seen in memory.

    Attributes
    ----------
    path : str or None
        The file; None if the array does not name it.
    """

    def __init__(self, mapping, array):
        self.path = None if array.filename is None else os.fspath(array.filename)
        memory = np.frombuffer(mapping, np.uint8)
        self._begin, self._length = memory.ctypes.data, len(memory)
        # numpy maps from the last multiple before the offset
        self._end_in_file = array.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        self._end_in_file += len(memory)
        # A writable map changes its file: only a file that is mapped read-only must stay unchanged.
        self._version = None if array.flags.writeable else self._read_version()

    def _read_version(self):
        """Return the identity of the file at the path and the time of its last change."""
        try:
            state = os.stat(self.path or "")
        except OSError:
            return None
        return (state.st_dev, state.st_ino), state.st_mtime_ns

    def holds(self, address):
        """Return True if an address lies in the mapping."""
        return self._begin <= address < self._begin + self._length

    def check(self, mapping):
        """Raise if the file is shorter than its mapping, or was written to.

        Reading beyond the end of a mapped file ends the process. A file that was replaced or
        deleted stays complete for those who have mapped it.
        """
        try:
            size = mapping.size()
        except (OSError, ValueError):  # a mapping without a file descriptor
            size = self._end_in_file
        if size < self._end_in_file:
            raise ValueError(
                f"{self} has {size} bytes, and the training images end at byte "
                f"{self._end_in_file}: the file was cut short after it was opened; {_SHRUNK}."
            )
        before, now = self._version, self._read_version()
        if before and now and now[0] == before[0] and now[1] != before[1]:
            raise ValueError(
                f"{self} was written to while its images were in use, so that results would mix "
                "old and new images; open it again and fit again."
            )

    def __str__(self):
        return "the file of the training images" if self.path is None else f"'{self.path}'"


_FILES: WeakKeyDictionary[mmap.mmap, MappedFile] = WeakKeyDictionary()
_LOCK = ForkSafeLock()


def note_mapping(array):
    """Remember the file of an array that is mapped to one, and ask the system to read ahead."""
    named, owner = None, array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and hasattr(owner, "offset"):
            named = owner
        owner = owner.base
    if not isinstance(owner, mmap.mmap) or named is None or named.offset is None:
        return
    with _LOCK:
        if owner not in _FILES:
            _FILES[owner] = MappedFile(owner, named)
            if hasattr(mmap, "MADV_SEQUENTIAL"):
                owner.madvise(mmap.MADV_SEQUENTIAL)  # otherwise each page is waited for


def is_mapped(array):
    """Return True if an array lies in a file that is mapped to memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


def file_of(images):
    """Return the mapping and the `MappedFile` of an array or tensor, or None if it has no file."""
    if isinstance(images, np.ndarray):
        address = images.__array_interface__["data"][0]
    elif images.device.type == "cpu":
        address = images.data_ptr()
    else:
        return None
    with _LOCK:
        return next((item for item in _FILES.items() if item[1].holds(address)), None)


def check_unchanged(images):
    """Raise ValueError if the file of mapped images is shorter than it was, or was written to.

    ``images`` is an array or a tensor.
    """
    if isinstance(images, np.ndarray):
        note_mapping(images)
    found = file_of(images)
    if found is not None:
        mapping, file = found
        file.check(mapping)


def check_copy(tensor, n_rows, what, remedy):
    """Raise MemoryError if ``n_rows`` mapped images exceed ``working_memory``.

    Call before images are copied: images that the user left in a file may not fit in memory.
    ``what`` is the subject of the message, and ``remedy`` its advice.
    """
    if file_of(tensor) is not None:
        n_bytes = n_rows * tensor[:1].numel() * tensor.element_size()
        check_copied_bytes(n_bytes, what, remedy)


def check_copied_bytes(n_bytes, what, remedy):
    """Raise MemoryError if a copy of mapped images exceeds ``working_memory``."""
    allowed = get_config()["working_memory"] * 2**20
    if n_bytes > allowed:
        raise MemoryError(
            f"{what} takes a copy of {n_bytes / 2**20:.4g} MiB in memory, and the images are in a "
            f"mapped file and {allowed / 2**20:.4g} MiB are allowed for copies; {remedy}, or allow "
            f"the copy with sklearn.set_config(working_memory={int(n_bytes / 2**20) + 1})."
        )
