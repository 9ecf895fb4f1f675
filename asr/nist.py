"""NIST's word alignment, step for step as sclite takes it (kernel).

C(i, j) = min of  C(i-1, j-1) + (0 if equal, else 4)    hit, substitution
                  C(i-1, j) + 3                         deletion
                  C(i, j-1) + 3                         insertion

Among equal costs: first hit or substitution, then insertion, then deletion, looking back from the
end (SCTK, src/sclite/net_dp.c, calculate_internal_cells; weights in word.c, wwd_WORD).
"""

import numpy as np
from numpy.typing import NDArray

from asr.kernels import njit

HIT, SUBSTITUTION, DELETION, INSERTION = 0, 1, 2, 3


@njit
def align(reference: NDArray[np.int32], hypothesis: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The steps from the first words to the last, given word ids (n,) and (m,)."""
    n, m = len(reference), len(hypothesis)
    back = np.empty((n + 1, m + 1), np.uint8)
    back[0, :] = INSERTION
    back[:, 0] = DELETION
    row = 3 * np.arange(m + 1)
    for i in range(1, n + 1):
        diagonal = row[0]
        row[0] = 3 * i
        for j in range(1, m + 1):
            equal = reference[i - 1] == hypothesis[j - 1]
            straight = diagonal + (0 if equal else 4)
            deleted, inserted = row[j] + 3, row[j - 1] + 3
            diagonal = row[j]
            if straight <= deleted and straight <= inserted:
                row[j] = straight
                back[i, j] = HIT if equal else SUBSTITUTION
            elif deleted < inserted:
                row[j] = deleted
                back[i, j] = DELETION
            else:
                row[j] = inserted
                back[i, j] = INSERTION
    steps = np.empty(n + m, np.uint8)
    begin, i, j = n + m, n, m
    while i > 0 or j > 0:
        begin -= 1
        steps[begin] = back[i, j]
        i -= steps[begin] != INSERTION
        j -= steps[begin] != DELETION
    return steps[begin:]
