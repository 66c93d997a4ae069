"""La huella de las filas, contra una segunda versión escrita de otra manera, y lo que se apoya en ella."""
import math
import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from de_jupyter_a_la_tierra.models.evaluation import count_twins, evaluation_mask, hash_rows

WORD = 2**64 - 1
tables = npst.arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 6)), elements=st.floats(width=32))


def hash_row(row: list[float]) -> int:
    """La misma huella, número a número y con los enteros de Python."""
    digest = 0
    for value in row:
        canonical = float("nan") if math.isnan(value) else value + 0.0
        state = ((digest ^ struct.unpack("<I", struct.pack("<f", canonical))[0]) + 0x9E3779B97F4A7C15) & WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
        digest = state ^ (state >> 31)
    return digest


@settings(deadline=None)
@given(tables)
def test_same_as_the_definition(X: np.ndarray) -> None:
    assert hash_rows(X).tolist() == [hash_row(row) for row in X.tolist()]


@settings(deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_twins_stay_together_and_neighbours_do_not_matter(X: np.ndarray, random) -> None:
    order = [random.randrange(len(X)) for _ in range(3 * len(X))]
    assert evaluation_mask(X[order]).tolist() == evaluation_mask(X)[order].tolist()


@settings(deadline=None)
@given(tables)
def test_twins_are_the_rows_that_repeat(X: np.ndarray) -> None:
    distinct = {tuple("nan" if math.isnan(value) else value + 0.0 for value in row) for row in X.tolist()}
    assert count_twins(X) == {"n_rows": len(X), "n_distinct": len(distinct), "n_twins": len(X) - len(distinct)}


def test_columns_in_another_memory_order() -> None:
    X = np.random.default_rng(0).random((100, 5), dtype=np.float32)
    assert (hash_rows(np.asfortranarray(X)) == hash_rows(X)).all()
    assert (hash_rows(X.astype(">f4")) == hash_rows(X)).all()
