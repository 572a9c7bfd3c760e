"""Detection of names that look like several cases of one patient, and the ``--group-by`` that keeps these together.

A name is cut in two: a stem that identifies the patient, and a rest that counts within one, as in
``patient012 | frame01``, ``sub-03 | ses-1``, ``Image_07 | L`` or, the other way round, ``left | 012``. A cut is
plausible where it fits all names and

- there are several stems, numbered and not by a date alone, and several cases share one;
- the rest names a part of one patient's images (a side, a frame, a visit, a slice), or is at least a number that begins
  anew with every stem, as running numbers over a whole dataset do not.

So ``slice_00 .. slice_29``, ``hippocampus_001`` and hashes do not count, nor numbers of sites, folds or years.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from unetx_evaluators.evaluation import DataError
from unetx_evaluators.tasks.groups import groups_of


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SIDES_AND_TIMES = _words("""
    left right l r lt rt od os lh rh lcc rcc lmlo rmlo cc mlo ed es systole diastole
    pre post baseline bl followup fu before after rescan retest
""")
"""Words that alone name one of a patient's images."""
_COUNTED = _words("""
    frame fr f slice sl slc s z section sec bscan visit vis v tp timepoint time t day d week wk month mo m followup fu
    session ses series ser acq echo phase ph run rep repeat view
""")
"""Words that name one of a patient's images together with a number."""
_SORTING = _words("""
    site center centre hospital clinic scanner vendor fold batch set dataset task split train training test testing val
    valid validation class grade group cohort version release year challenge stage
""")
"""Words before the number of a set of many patients."""
_PIECES = _words("row col x y z tile patch crop roi slice frame visit tp timepoint day week month session")
"""Words before the number of a part of a patient's images."""
_PATIENT = _words("patient pat pt sub subj subject case id pid person participant volunteer animal mouse rat")
"""Words before the number of a patient."""
_LETTERS = "abcdef"

_FIELD = re.compile(r"[^-_. ]+")
_FIELDS, _GAP = "[^-_. ]+", "[-_. ]+"
_NUMBER_FIRST = re.compile(r"([^\W\d_]*\d+)(|[^\W\d_]{1,10}\d{0,4})")
_WORD_NUMBER = re.compile(r"([^\W\d_]*)(\d{0,5})")
_LAST_WORD = re.compile(r"(?:^|[-_. ])([^\W\d_]+)(?:[-_. ]*\d+)?$")
_DATE = re.compile(r"(?<![^\W_])(?:19|20)\d\d(?:[-_.]?[01]\d[-_.]?[0-3]\d)?(?![^\W_])")
_TOKEN = re.compile(r"\d+|[A-Za-z]+|[^A-Za-z\d]+")
_MAX_PARTS = 3
_MIN_REPEATED = 0.5
"""Smallest share of the rests that several stems have."""


@dataclass(frozen=True, slots=True)
class Patients:
    """The patients of cases, as their names suggest."""

    stems: Mapping[str, str]
    """The part of the name that identifies the patient, by case."""
    expression: str
    """A regular expression that finds the stems, without the stem of any single patient."""

    @property
    def shared(self) -> dict[str, list[str]]:
        """The names of the cases, by stem, of every stem with several cases."""
        members: dict[str, list[str]] = defaultdict(list)
        for name, stem in self.stems.items():
            members[stem].append(name)
        return {stem: names for stem, names in members.items() if len(names) > 1}

    @property
    def flag(self) -> str:
        """The ``--group-by`` option, quoted for a shell."""
        plain = not set(self.expression) & set('$`\\!"')
        return f'--group-by "{self.expression}"' if plain else f"--group-by {shlex.quote(self.expression)}"

    def separated(self, parts: Iterable[Sequence[str]]) -> list[str]:
        """The stems whose cases lie in several of the ``parts``."""
        counts = Counter(stem for part in parts for stem in {self.stems[name] for name in part})
        return sorted(stem for stem, count in counts.items() if count > 1)


def patients_of(names: Sequence[str], *, spell: bool = True) -> Patients | None:
    """The patients by the coarsest plausible cut of the names; None where every case looks like a patient of its own.

    Unless ``spell``, the expression holds no word of the names.
    """
    for cut in _cuts([(name, list(_FIELD.finditer(name))) for name in sorted(names)]):
        if cut.is_plausible:
            for expression in (cut.with_words() if spell else None, cut.expression):
                if expression is not None and cut.is_found_by(expression):
                    return Patients(cut.stems, expression)
    return None


@dataclass(frozen=True, slots=True)
class _Cut:
    """One way to cut all names."""

    stems: Mapping[str, str]
    rests: Mapping[str, str]
    expression: str
    """A regular expression that finds the stems by their positions in the names."""
    stem_first: bool = True

    @property
    def is_plausible(self) -> bool:
        """Whether the stems look like patients and the rests like parts of one."""
        sizes = Counter(self.stems.values())
        shared = [stem for stem, n in sizes.items() if n > 1]
        if len(sizes) < 2 or not shared or not _are_numbered(sizes):
            return False
        rests = [rest for rest in self.rests.values() if rest]
        if not self.stem_first:
            return all(_says_itself(rest) and rest[0].isalpha() and len(_parts(rest)) == 1 for rest in rests)
        if _are_letters(rests) or all(map(_says_itself, rests)):
            return True
        return len(shared) > 1 and all(map(_is_counted, rests)) and self._repeats(set(shared))

    def _repeats(self, shared: set[str]) -> bool:
        """Whether most rests occur with several stems."""
        stems_of: dict[str, set[str]] = defaultdict(set)
        for name, rest in self.rests.items():
            stems_of[rest].add(self.stems[name])
        rests = [self.rests[name] for name, stem in self.stems.items() if stem in shared]
        return sum(len(stems_of[rest]) > 1 for rest in rests) >= _MIN_REPEATED * len(rests)

    def with_words(self) -> str | None:
        """An expression that spells what all stems share, such as ``^(patient[0-9]+)``; None where they differ."""
        split = [_TOKEN.findall(stem) for stem in dict.fromkeys(self.stems.values())]
        if not self.stem_first or len({len(tokens) for tokens in split}) > 1:
            return None
        spelled = [_spelled(tokens) for tokens in zip(*split, strict=True)]
        return None if None in spelled else f"^({''.join(map(str, spelled))})"

    def is_found_by(self, expression: str) -> bool:
        try:
            return groups_of(list(self.stems), expression) == self.stems
        except DataError:
            return False


def _cuts(names: Sequence[tuple[str, Sequence[re.Match[str]]]]) -> Iterator[_Cut]:
    """Yield all cuts, from the longest rest to the shortest, then those whose rest comes first."""
    counts = {len(fields) for _, fields in names}
    for n in range(1, max(counts, default=0) + 1):
        inside = _inside_field(names, n - 1)
        if inside is not None:
            yield inside
        stems = {name: name[: fields[min(n, len(fields)) - 1].end()] for name, fields in names if fields}
        rests = {name: name[fields[n].start() :] if n < len(fields) else "" for name, fields in names}
        if len(stems) == len(names):
            yield _Cut(stems, rests, f"^({_FIELDS}{_times(_GAP + _FIELDS, n - 1)})")
    if len(counts) > 1:
        for n in range(min(counts) - 1, 0, -1):
            stems = {name: name[: fields[-n - 1].end()] for name, fields in names}
            rests = {name: name[fields[-n].start() :] for name, fields in names}
            yield _Cut(stems, rests, f"^(.+?){_times(_GAP + _FIELDS, n)}$")
    for n in range(min(counts, default=0) - 1, 0, -1):
        stems = {name: name[fields[n].start() :] for name, fields in names}
        rests = {name: name[: fields[n - 1].end()] for name, fields in names}
        yield _Cut(stems, rests, f"^{_times(_FIELDS + _GAP, n)}(.+)", stem_first=False)


def _inside_field(names: Sequence[tuple[str, Sequence[re.Match[str]]]], n: int) -> _Cut | None:
    """The cut inside the field ``n`` of all names, like 01 and L in ``01L``; None where that does not fit all."""
    found = [(name, _NUMBER_FIRST.fullmatch(fields[n][0]) if n < len(fields) else None) for name, fields in names]
    starts = {name: fields[n].start() for name, fields in names if n < len(fields)}
    ends = {name: starts[name] + match.end(1) for name, match in found if match is not None}
    if len(ends) < len(names) or not any(match is not None and match[2] for _, match in found):
        return None
    return _Cut(
        {name: name[:end] for name, end in ends.items()},
        {name: name[end:].lstrip("-_. ") for name, end in ends.items()},
        f"^({_times(_FIELDS + _GAP, n)}[A-Za-z]*[0-9]+)",
    )


def _times(expression: str, n: int) -> str:
    return expression * n if n < 2 else f"(?:{expression}){{{n}}}"


def _are_numbered(stems: Iterable[str]) -> bool:
    """Whether stems are numbered, by more than dates, and the number is that of a patient."""
    undated = {stem: _DATE.sub("", stem) for stem in stems}
    numbers = {"".join(re.findall(r"\d+", stem)) for stem in undated.values()}
    words = {match[1].casefold() for stem in undated.values() if (match := _LAST_WORD.search(stem))}
    return len(numbers) > 1 and "" not in numbers and not words & (_SORTING | _PIECES)


def _are_letters(rests: Sequence[str]) -> bool:
    """Whether the rests are the letters a and b, perhaps more, for several scans of one patient."""
    found = {rest.casefold() for rest in rests}
    return {"a", "b"} <= found <= set(_LETTERS)


def _says_itself(rest: str) -> bool:
    """Whether the rest begins with a side, a time, a frame or the like."""
    parts = _parts(rest)
    if not parts or not _is_counted(rest):
        return False
    word, number = parts[0]
    return word in _COUNTED if number else word in _SIDES_AND_TIMES


def _is_counted(rest: str) -> bool:
    """Whether the rest is a few numbers, words with numbers, sides and times, none of which is a patient's."""
    parts = _parts(rest)
    return 0 < len(parts) <= _MAX_PARTS and all(
        word not in _PATIENT | _SORTING and (bool(number) or word in _SIDES_AND_TIMES) for word, number in parts
    )


def _parts(rest: str) -> list[tuple[str, str]]:
    """The words of a rest with the numbers after them: ``ses-1_run2`` is (ses, 1), (run, 2); empty if it has other
    parts.

    A date counts as a day.
    """
    parts: list[tuple[str, str]] = []
    for field in _FIELD.findall(_DATE.sub("day1", rest)):
        match = _WORD_NUMBER.fullmatch(field.casefold())
        if match is None:
            return []
        if not match[1] and parts and not parts[-1][1] and parts[-1][0] not in _SIDES_AND_TIMES:
            parts[-1] = (parts[-1][0], match[2])
        else:
            parts.append((match[1], match[2]))
    return parts


def _spelled(tokens: Sequence[str]) -> str | None:
    """The expression for tokens: the token itself where all are equal, else their kind; None for several kinds."""
    if len(set(tokens)) == 1:
        return re.escape(tokens[0]).replace(r"\-", "-").replace(r"\ ", " ")
    if all(token.isdecimal() and token.isascii() for token in tokens):
        return "[0-9]+"
    return "[A-Za-z]+" if all(token.isalpha() and token.isascii() for token in tokens) else None
