"""A whole search on a Ray cluster with a fake evaluator, to be run as a process of its own and killed:
OUT TRIALS SECONDS_PER_STEP ADDRESS [MISDEED].
"""

import sys

from searching_process import search_to_end

from unetx_evaluators.fake import InjectedFault

if __name__ == "__main__":
    acts = {0: InjectedFault(sys.argv[5])} if len(sys.argv) > 5 else {}
    search_to_end(acts, engine="ray", ray_address=sys.argv[4])
