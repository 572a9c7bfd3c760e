"""The console script: from its first instant on, Ctrl-C and SIGTERM end the process with a message.

Nothing is imported before the signals have their handlers, because the imports take a noticeable part of a second.
"""

import signal
import sys
from types import FrameType
from typing import NoReturn

from unetx_search import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a shell script
            signal.signal(number, _interrupt)
    try:
        from unetx_search import cli

        cli.main()
    except KeyboardInterrupt:
        print("stopped before anything had begun", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # all is said: once more ends the process without a traceback
    sys.exit()


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)


if __name__ == "__main__":
    main()
