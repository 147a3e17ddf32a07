"""Which training images an answer is made of."""

from .conditional import ClassConditional


class Attributable(ClassConditional):
    """What `BaseDenoiser` knows of the training images behind its answers.

    A subclass whose answer is a mean of training images gives ``_windows(sigma)``, the `Windows`
    at a noise level, a float; ``denoiser._windows(sigma).at(row, column)`` lists those that answer
    for a pixel. Others say in ``_no_windows`` why there are none.
    """

    _no_windows = "{name} does not answer with means of training images that windows compare."

    def _windows(self, sigma):
        """The windows at a noise level, a float.

        Raises
        ------
        ValueError
            If the answer there is no mean of training images.
        """
        raise self._without_windows()

    def _without_windows(self, reason=None):
        """The error of a denoiser that has none."""
        return ValueError((reason or self._no_windows).format(name=type(self).__name__))
