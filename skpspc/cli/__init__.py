"""The command line: ``skpspc sample``, ``denoise``, ``attribute`` and ``calibrate``."""

from ._interrupt import end_on_interrupt, ignore_interrupts


def main():
    """Run the command that ``sys.argv`` gives, and end the process."""
    end_on_interrupt()  # before the imports, which take seconds
    from ._commands import commands

    try:
        commands(prog_name="skpspc")
    finally:
        ignore_interrupts()  # the interpreter is about to end, with the status of the command
