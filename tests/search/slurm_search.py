"""A whole search in jobs of Slurm with a fake evaluator, to be run as a process of its own and killed:
OUT TRIALS SECONDS_PER_STEP [OPTION...].
"""

import sys

from searching_process import search_to_end

if __name__ == "__main__":
    search_to_end({}, engine="slurm", slurm=tuple(sys.argv[4:]), deterministic=2)
