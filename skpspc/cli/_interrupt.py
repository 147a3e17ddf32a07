"""Ctrl-C ends a command with one sentence and status 130, whatever the command is doing.

The handler ends the process itself: an exception could be lost in a destructor, break an import
half-way, or come back as a traceback at exit. It is installed before any other module is loaded,
so this module imports the standard library only.
"""

import os
import signal

STATUS = 130  # 128 + SIGINT, as shells report it

_sentence = (
    "interrupted before a result was saved; nothing was written. Run the same command again to "
    "compute the result."
)
_n_held = 0
_pending = False


def end_on_interrupt():
    """Install the handler, unless Ctrl-C is ignored (``nohup`` does that)."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)


def ignore_interrupts():
    """Ignore Ctrl-C until the process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def say_on_interrupt(sentence):
    """Set the sentence that is printed when Ctrl-C ends the command."""
    global _sentence
    _sentence = sentence


class InterruptsHeld:
    """Context that delays Ctrl-C until the block ends."""

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
