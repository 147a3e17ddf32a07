"""Ctrl-C ends a command with one sentence and status 130, whatever the command is doing.

The handler ends the process itself. An exception would be lost in a destructor, break an import
half-way, or come back as a traceback at exit. Imports the standard library only: the handler is
installed before anything else is loaded.
"""

import os
import signal

STATUS = 130  # 128 + SIGINT, as shells report it

_sentence = (
    "interrupted before there was anything to keep; nothing was written. The same command, with "
    "the same seed, computes it again."
)
_n_held = 0
_pending = False


def end_on_interrupt():
    """Install the handler, unless Ctrl-C is ignored, as ``nohup`` and shells have it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)


def ignore_interrupts():
    """Ignore Ctrl-C from here on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def say_on_interrupt(sentence):
    """Replace the sentence that an interrupted command ends with."""
    global _sentence
    _sentence = sentence


class InterruptsHeld:
    """Context in which Ctrl-C waits: the process ends when the block has."""

    def __enter__(self):
        global _n_held
        _n_held += 1

    def __exit__(self, *_):
        global _n_held
        _n_held -= 1
        if _pending and not _n_held:
            _end()


def _interrupted(_signal, _frame):
    global _pending
    _pending = True
    if not _n_held:
        _end()


def _end():
    ignore_interrupts()
    line = "\n" if os.isatty(2) else ""  # below the progress bar
    try:
        os.write(2, f"{line}Error: {_sentence}\n".encode())
    finally:
        os._exit(STATUS)
