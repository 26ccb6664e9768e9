"""How long a thread that has nothing to do spins before it sleeps, in the OpenMP of torch (libgomp).

Threads that sleep at once must be woken for each of the thousand small products of a step: on two cores a step of 8 rows of 40 tokens
then took 235 ms instead of 180, and one of 8 rows of 256 15 % longer. Threads that spin for long, which is libgomp's default, take
the cores from other processes: two jobs with two threads each on two cores took 670 ms a step instead of 340. With this count a
step alone takes at most 3 % longer than with the longest, and two such jobs 18 % longer than with none.
"""

import os

SPIN_COUNT = "3000"
"""https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html"""


def spin_briefly() -> None:
    """Set it in the environment, which torch reads when it is imported. What is set there already stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
