"""A whole search with a fake evaluator, to be run as a process of its own and killed:
OUT TRIALS SECONDS_PER_STEP [SETTING=VALUE ...]; the setting ``act`` is what every evaluation with seed 0 does.
"""

import sys
from typing import Any

from searching_process import search_to_end

from unetx_evaluators.fake import InjectedFault

if __name__ == "__main__":
    told: dict[str, Any] = dict(word.split("=", 1) for word in sys.argv[4:])
    acts = {0: InjectedFault(told.pop("act"))} if "act" in told else {}
    search_to_end(acts, notes_calls=False, **told)
