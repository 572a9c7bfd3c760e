"""How we look: samplers, coordinator, executors, command line.

In Python ``import unetx_search as ux`` offers ``ux.search``, ``ux.study``, ``ux.load``, ``ux.presets``, ``ux.task``,
``ux.train``, ``ux.predict`` and ``ux.export``.

Nothing is imported before it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unetx_search.api import Design, Study, export, load, predict, presets, search, study, task, train

INTERRUPTED = 130
"""Exit code of a command that the user ended."""

__all__ = [
    "INTERRUPTED", "Design", "Study", "export", "load", "predict", "presets", "search", "study", "task", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        from unetx_search import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
