"""How we look: samplers, coordinator, executors, command line; and in Python, as ``import unetx_search as ux``,
``ux.search(data, trials=20)``, ``ux.study(folder)``, ``ux.load(path)``, ``ux.presets`` and ``ux.task(data)``.

Nothing is imported before it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unetx_search.api import Design, Study, load, presets, search, study, task

INTERRUPTED = 130
"""Exit code of a command that the user ended."""

__all__ = ["INTERRUPTED", "Design", "Study", "load", "presets", "search", "study", "task"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from unetx_search import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
