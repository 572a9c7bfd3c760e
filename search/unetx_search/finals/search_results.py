"""What finals know of the study's search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetx_search.cheapest import CostOf, cheapest
from unetx_search.config import SearchConfig, read_request, read_settings
from unetx_search.finals.config import REFERENCE
from unetx_search.run import REQUEST, SETTINGS
from unetx_space.errors import RequestError
from unetx_space.training_memory import training_memory
from unetx_studies.ranking import Ranking, preset_key
from unetx_studies.store import Records, find_location, open_store
from unetx_studies.study_folders import check_study
from unetx_studies.verdict import Noise, noise, scores_table

if TYPE_CHECKING:
    from unetx_evaluators.evaluation import CaseScore
    from unetx_space.genome import Genome


@dataclass(frozen=True, slots=True)
class SearchResults:
    """What finals know of the study's search."""

    name: str
    request: SearchConfig
    settings: Mapping[str, Any]
    ranking: Ranking
    genomes: Mapping[str, Genome]
    """The genome of each design, by key."""
    trainings: Mapping[tuple[str, int], Sequence[CaseScore]]
    """The case scores of the designs with several seeds, by key and seed."""
    reference: str | None
    """The key of U-Net's design."""
    cheapest: str | None
    seed_deviation: float
    database: str | None
    """The URL of the server that keeps the study; None for a file."""


def read_search_results(study: Path) -> SearchResults:
    """Read the search of the study in a folder. Raises RequestError when there is none, or no trial is complete."""
    check_study(study)
    request, settings = read_request(study / REQUEST), read_settings(study / SETTINGS)
    patch = tuple(settings["task"]["patch"])
    location = find_location(study)
    with open_store(location.url, create=False, read_only=True) as store:
        name = location.study or (Records.studies(store) or (study.resolve().name,))[0]
        records = Records(store, name)
        trials = records.trials(finished_only=True)
        ranking = Ranking(trials)
        if not ranking.designs:
            raise RequestError(f"{study}: none of its trials is complete yet, so that nothing could compete in finals")
        repeated = [one for one in ranking.designs if len(one.seeds) > 1]
        reference = preset_key(trials, REFERENCE)
        cost_of = CostOf(request.cheap_by, lambda key: training_memory(records.architecture(key), patch))
        shrunken = ranking.shrinkage
        found = cheapest(ranking, reference, request.cheap_by, request.margin, cost_of)
        return SearchResults(
            name=name,
            request=request,
            settings=settings,
            ranking=ranking,
            genomes={one.key: records.architecture(one.key).genome for one in ranking.designs},
            trainings={
                (one.key, trial.seed): records.case_scores(trial.number) for one in repeated for trial in one.trials
            },
            reference=reference,
            cheapest=found.design.key if found is not None and found.design is not None else None,
            seed_deviation=shrunken.seed_deviation if shrunken is not None else 0.0,
            database=location.url if location.is_on_server else None,
        )


def noise_of(search: SearchResults, groups: Mapping[str, str]) -> Noise | None:
    """Estimate how differences to U-Net vary over seeds and cases, from the search's replicates; None without any."""
    if search.reference is None:
        return None
    table = scores_table(search.trainings, groups)
    if search.reference not in table.designs:
        return None
    others = (design for design in table.designs if design != search.reference)
    tables = (table.paired(design, search.reference) for design in others)
    return noise(((values, of) for values, of in tables if values.size), search.seed_deviation)
