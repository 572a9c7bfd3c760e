"""Mutations and crossover: pure functions of (genome, space, rng) for evolutionary samplers.

Genomes go through the genes of the space, whose every assignment is valid: any chain of these functions stays inside
the space and without faults. Only genes with an effect are changed. A node of a nested space that nothing read so far
and that comes to life reads nothing itself and has its operators drawn at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from unetx_space.canonical import canonical, without_idle_genes
from unetx_space.design_space import Choice, DesignSpace, NodeGenes
from unetx_space.genome import Genome

Mutation = Callable[[Genome, DesignSpace, random.Random], Genome]
Params = dict[str, Choice]


def add_skip(genome: Genome, space: DesignSpace, rng: random.Random) -> Genome:
    """A live node reads one more stage; the genome itself when every node reads all it may."""
    params, live = _spelled(genome, space, rng)
    absent = [name for node in live for name in node.sources if not params[name]]
    return _flipped(space, params, [rng.choice(absent)]) if absent else genome


def drop_skip(genome: Genome, space: DesignSpace, rng: random.Random) -> Genome:
    """A live node reads one stage less; the genome itself when no node has a source."""
    params, live = _spelled(genome, space, rng)
    present = [name for node in live for name in node.sources if params[name]]
    return _flipped(space, params, [rng.choice(present)]) if present else genome


def move_skip(genome: Genome, space: DesignSpace, rng: random.Random) -> Genome:
    """A live node reads another stage in place of one; the genome itself when no node has a choice."""
    params, live = _spelled(genome, space, rng)
    movable = [
        (taken, given)
        for node in live
        if (taken := [name for name in node.sources if params[name]])
        and (given := [name for name in node.sources if not params[name]])
    ]
    if not movable:
        return genome
    taken, given = rng.choice(movable)
    return _flipped(space, params, [rng.choice(taken), rng.choice(given)])


def _changing(gene: Callable[[NodeGenes], str | None]) -> Mutation:
    """The mutation that gives one gene of one live node another value with another effect; it returns the genome itself
    where there is none."""

    def change(genome: Genome, space: DesignSpace, rng: random.Random) -> Genome:
        params, live = _spelled(genome, space, rng)
        ways = []
        for node in live:
            if (name := gene(node)) is not None:
                made = {c: without_idle_genes(space.node(node, {**params, name: c})) for c in space.genes[name]}
                now = without_idle_genes(space.node(node, params))
                if others := [choice for choice, other in made.items() if other != now]:
                    ways.append((name, others))
        if not ways:
            return genome
        name, others = rng.choice(ways)
        return space.from_params(params | {name: rng.choice(others)})

    return change


MUTATIONS: Mapping[str, Mutation] = {
    "add-skip": add_skip,
    "drop-skip": drop_skip,
    "move-skip": move_skip,
    "change-attention": _changing(lambda node: node.attention),  # or the same one at another placement
    "change-upsampler": _changing(lambda node: node.upsampler),
    "change-fusion": _changing(lambda node: node.fusion),
    "change-alignment": _changing(lambda node: node.alignment),
}


def mutate(genome: Genome, space: DesignSpace, rng: random.Random) -> Genome:
    """A neighbour of ``genome``: the first mutation, in random order, that gives another design.

    Raises ValueError when ``genome`` is outside the space, or the only design in it.
    """
    form = canonical(genome)
    for name in rng.sample(list(MUTATIONS), len(MUTATIONS)):
        child = MUTATIONS[name](genome, space, rng)
        if canonical(child) != form:
            return child
    raise ValueError("this space holds one design only, so that nothing can be changed; allow more choices")


def crossover(a: Genome, b: Genome, space: DesignSpace, rng: random.Random) -> Genome:
    """Each node with all its genes from one parent or the other; where one has no such node, from the other.

    Uniform crossover (Syswerda 1989) with decoder nodes as the units, since the genes of a node act together.
    """
    parents = [_spelled(parent, space, rng) for parent in (a, b)]
    params: Params = {}
    for node in space.nodes:
        givers = [spelling for spelling, live in parents if node in live] or [parents[0][0]]
        giver = rng.choice(givers)
        params |= {name: giver[name] for name in (*node.sources, *node.operators)}
    return space.from_params(params)


def _spelled(genome: Genome, space: DesignSpace, rng: random.Random) -> tuple[Params, list[NodeGenes]]:
    """The genes of the genome, with random operators for the nodes it does not have, and the nodes it has."""
    params, places = space.to_params(genome), space.places(genome)
    for node in space.nodes:
        if node.candidate.ref not in places:
            params |= {name: rng.choice(space.genes[name]) for name in node.operators}
    return params, [node for node in space.nodes if node.candidate.ref in places]


def _flipped(space: DesignSpace, params: Params, names: list[str]) -> Genome:
    return space.from_params(params | {name: not params[name] for name in names})
