"""The queries of docs/sql.md on a study that is made here; the page shows what they answer on another."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coordinator_helpers import Bench

from unetx_evaluators.evaluation import Evaluation
from unetx_evaluators.fake import FakeEvaluator
from unetx_evaluators.insight import Insight, SkipSimilarity
from unetx_space.architecture import Architecture

PAGE = Path(__file__).parents[2] / "docs/sql.md"


@dataclass(frozen=True)
class WithSimilarities(FakeEvaluator):
    """Every skip is told to bring half of what its decoder has."""

    def evaluate(self, architecture: Architecture, *rest: Any, **more: Any) -> Evaluation:
        told = (SkipSimilarity(str(n.ref), str(source), 0.5) for n in architecture.genome.nodes for source in n.sources)
        found = FakeEvaluator.evaluate(self, architecture, *rest, **more)
        return replace(found, insight=Insight(similarities=tuple(told)))


QUESTION = re.compile(r"^## (\d+)\. [^\n]+\n\n```sql\n(.*?)```\n\n```text\n(.*?)```", re.MULTILINE | re.DOTALL)


def test_the_ten_queries_run_on_any_study_and_answer_in_the_columns_of_the_page(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "s")
    bench.run(WithSimilarities(), 14)
    asked = QUESTION.findall(PAGE.read_text(encoding="utf-8"))
    assert [number for number, _, _ in asked] == [str(n) for n in range(1, 11)]
    database = sqlite3.connect(f"file:{bench.folder / 'study.db'}?mode=ro", uri=True)
    for number, query, answer in asked:
        cursor = database.execute(query)
        rows = cursor.fetchall()
        assert [column for column, *_ in cursor.description] == answer.splitlines()[0].split(), number
        assert rows, number
        assert all(value is not None for row in rows for value in row), number
    database.close()
