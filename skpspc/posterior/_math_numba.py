"""Finite substitutes for infinity, and a fast exponential, for compiled loops."""

import numpy as np

from ._jit import jit

LOWEST = np.float32(-1e37)  # finite substitutes for infinity, which can be subtracted
HUGE = np.float32(1e38)

_ONE = np.float32(1.0)
_LOG2E = np.float32(1.4426950408889634)
_LN2 = np.float32(0.6931471805599453)
_ROUND = np.float32(12582912.0 + 127.0)  # 1.5 * 2^23 rounds to an integer; 127 biases the exponent
_MANTISSA = np.int32(23)
_EXP_MIN = np.float32(-43.0)
_E1 = np.float32(0.999999707010714)  # minimax for (exp(f) - 1) / f, |f| <= log(2) / 2
_E2 = np.float32(0.49999149185631947)
_E3 = np.float32(0.1666763658825285)
_E4 = np.float32(0.0418979763169499)
_E5 = np.float32(0.008290306123274329)


@jit
def exp_negative(v):
    """Return exp of a float32 <= 0, at least exp(-43), whose square is not a slow subnormal."""
    v = v if v > _EXP_MIN else _EXP_MIN
    t = np.float32(v * _LOG2E + _ROUND)
    f = v - (t - _ROUND) * _LN2
    p = _E4 + f * _E5
    p = _E3 + f * p
    p = _E2 + f * p
    p = _E1 + f * p
    p = _ONE + f * p
    bits = t.view(np.int32)
    return p * np.int32(bits << _MANTISSA).view(np.float32)
