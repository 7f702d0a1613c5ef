"""What a comparison has found, in sentences: the terminal, the step summary and the page have the same ones.

They are plain text: whoever prints them escapes them. Names and values are as they are in the database, but cut where
they are long, and with escapes for what would move the cursor or turn the direction of the text around them.
"""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from harness.diff.results import Approval, ColumnChange, Diff, Mart, Rows, SchemaChange, Slice, Verdict

VALUE_CHARS = 120  # of a value; the longest names of PostgreSQL have 63
VERDICT_CHARS = 400  # of what differs from the expected rows
FEW = 2  # marts of which a sentence says all; of more it says less
NAMED = 3  # marts, columns or differences that a sentence names before it counts the rest
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
OF_A_MODEL = ("materialization", "key", "place")  # kinds of a schema change of which a model has at most one
ORACLE = "the independent computation"
DURATION = re.compile(r"(?:(?P<days>-?\d+) days?, )?(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d(?:\.\d+)?)")


def count(number: int, noun: str, plural: str = "") -> str:
    """Return NUMBER with its NOUN: `1 row`, `1,200 rows`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def count_of(number: int, every: int) -> str:
    """Return NUMBER of EVERY row: `3 rows`, or `all 9 rows` if it is every one of several."""
    return f"{'all ' if number == every > 1 else ''}{count(number, 'row')}"


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """Return NAMES as `a, b and c`, or `a, b, c and 9 more`."""
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most:,} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def value(text: str | None, most: int = VALUE_CHARS) -> str:
    """Return a value to be read on one line: `null`, `''` if empty, cut if it has more than MOST characters."""
    if text is None:
        return "null"
    shown = visible(text[:most])
    return f"{shown}… ({len(text):,} characters)" if len(text) > most else shown or "''"


def visible(text: str) -> str:
    """Return TEXT on one line, with escapes for characters that nobody sees."""
    return HIDDEN.sub(lambda found: ESCAPES.get(found[0], f"\\u{ord(found[0]):04x}"), text)


def signed(type_: str, difference: str) -> str:
    """Return the DIFFERENCE of two values of TYPE_ with its sign and unit: `+1.5`, `-2 days`, `-1 h`."""
    if type_ == "date":
        return f"{with_sign(difference)} {'day' if difference.lstrip('+-') == '1' else 'days'}"
    if found := DURATION.fullmatch(difference):
        parts = {name: float(number or 0) for name, number in found.groupdict().items()}
        return duration(timedelta(**parts))
    return with_sign(difference)


def with_sign(number: str) -> str:
    """Return NUMBER with a plus if it is positive."""
    return number if number.startswith("-") or not re.search("[1-9]", number) else f"+{number}"


def duration(difference: timedelta) -> str:
    """Return DIFFERENCE in days, hours, minutes and seconds: `-1 h 30 min`."""
    whole = abs(difference)
    hours, rest = divmod(whole.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    figures = (f"{whole.days} d", f"{hours} h", f"{minutes} min", f"{seconds + whole.microseconds / 1e6:.6g} s")
    shown = [figure for figure in figures if not figure.startswith("0 ")]
    return f"{'-' if difference.days < 0 else '+'}{' '.join(shown)}" if shown else "0 s"


def is_different(mart: Mart) -> bool:
    """Return whether anything of MART is not the same on both sides."""
    return bool(mart.schema or mart.differences)


def differs_only_incrementally(mart: Mart) -> bool:
    """Return whether both sides have the same rows after a full refresh, and not after an incremental run."""
    return bool(mart.rows and mart.rows.are_same and mart.incremental_rows and not mart.incremental_rows.are_same)


def repeats(mart: Mart) -> bool:
    """Return whether the incremental run of MART leads to the same rows as its full refresh, or was not made."""
    rows, after = mart.rows, mart.incremental_rows
    if not rows or not after:
        return True
    figures = [(r.base_rows, r.branch_rows, r.added, r.removed, r.changed, r.columns, r.digests) for r in (rows, after)]
    return figures[0] == figures[1] and mart.verdicts == (mart.incremental_verdicts or mart.verdicts)


def has_same_difference(one: Rows, other: Rows) -> bool:
    """Return whether as many rows differ in ONE as in the OTHER, in the same columns."""
    figures = [
        (r.added, r.removed, r.changed, {column.name: column.rows for column in r.columns}) for r in (one, other)
    ]
    return figures[0] == figures[1]


def headline(diff: Diff) -> str:
    """Return the verdict on one line: which marts differ, how, where, which side is right, and if it is approved."""
    return " ".join(verdict(diff))


def verdict(diff: Diff) -> list[str]:
    """Return the verdict, a sentence each: what differs and where, which side is right, and whether it is approved."""
    different = [mart for mart in diff.marts if is_different(mart)]
    first = opening(diff)
    if len(different) == 1:
        first += f", {value(different[0].name)}: {'; '.join(ways(different[0]))}"
    elif different:
        # Of the first mart, which the others follow from, all is said.
        is_short = len(different) > FEW
        phrases = ["; ".join(ways(mart, is_short and i > 0)) for i, mart in enumerate(different)]
        first += f": {listed([f'{value(mart.name)} ({how})' for mart, how in zip(different, phrases, strict=True)])}"
    return [f"{first}.", *judgement(diff)]


def opening(diff: Diff) -> str:
    """Return how many marts differ, without a full stop: `3 of 9 marts differ`."""
    different = sum(map(is_different, diff.marts))
    total = len({mart.name for mart in diff.marts} | set(diff.unaffected))
    marts = count(total, "mart")
    if not total:
        return "There are no marts to compare"
    if different and not any(mart.differences for mart in diff.marts):
        return f"The data of {marts} is the same; the definition of {different:,} differs"
    if different:
        of = f"{different:,} of {marts}" if total > 1 else "The only mart"
        return f"{of} {'differs' if different == 1 else 'differ'}"
    if not diff.changed and not diff.load_differs:
        return f"Nothing was changed in the dbt project, and so nothing in {marts}"
    return f"No difference in {marts}" if diff.marts else "What was changed can change no mart"


def judgement(diff: Diff) -> list[str]:
    """Return what failed, which side is right, and whether the differences are approved: a sentence each."""
    phrases = right_sides(diff.marts), approval_phrase(diff.approval, any(mart.differences for mart in diff.marts))
    return [*diff.failure[:1], *(f"{phrase[0].upper()}{phrase[1:]}." for phrase in phrases if phrase)]


def ways(mart: Mart, is_short: bool = False) -> list[str]:
    """Return how MART differs, a phrase each: `120 rows removed, all with service_id = 27`; IS_SHORT: not where."""
    if not (mart.in_base and mart.in_branch):
        what = "new, only the branch has it" if mart.in_branch else "removed, only the base has it"
        return [f"{what}{with_rows(mart)}"]
    found = []
    if mart.rows and mart.rows.duplicates:
        found.append(f"its key is not unique in the {' and the '.join(mart.rows.duplicates)}")
    if mart.rows and not mart.rows.are_same:
        found += row_phrases(mart.rows, is_short)
    if mart.incremental_rows and differs_only_incrementally(mart):
        phrases = row_phrases(mart.incremental_rows, is_short)
        found += [f"only after an incremental run {phrases[0]}", *phrases[1:]]
    elif mart.rows and mart.incremental_rows and not has_same_difference(mart.rows, mart.incremental_rows):
        phrases = row_phrases(mart.incremental_rows, is_short) or ["the same rows"]
        found += [f"after an incremental run {phrases[0]}", *phrases[1:]]
    elif mart.rows and mart.rows.are_same:
        found.append("the same rows")
    return found + schema_phrases(mart.schema, is_short)


def schema_phrases(schema: Sequence[SchemaChange], is_short: bool = False) -> list[str]:
    """Return the differences of a model's definition: a phrase for each column, or one for all, and another."""
    columns = [change for change in schema if change.kind.startswith("column")]
    kinds = Counter(change.kind for change in schema if change not in columns)
    if is_short and len(columns) > 1:
        found = [f"{len(columns):,} columns added, removed, renamed or retyped"]
    else:
        found = [schema_sentence(change) for change in columns]
    if kinds:
        rest = [kind if kind in OF_A_MODEL else count(number, kind) for kind, number in kinds.items()]
        found.append(f"{listed(rest, len(rest))} changed")
    return found


def row_phrases(rows: Rows, is_short: bool = False) -> list[str]:
    """Return how ROWS differ: a phrase for those added, removed and changed, with the slice of most of them."""
    slices = {} if is_short else {each.of: each for each in rows.slices}
    found = []
    for kind, number, every in (("added", rows.added, rows.branch_rows), ("removed", rows.removed, rows.base_rows)):
        if number:
            found.append(f"{count_of(number, every)} {kind}{slice_phrase(slices.get(kind))}")
    if rows.changed:
        names = [column.name for column in sorted(rows.columns, key=lambda column: -column.rows)]
        where = next((slices[name] for name in names if name in slices), None)
        of = f" in {listed([value(name) for name in names])}" if names else ""
        found.append(f"{count_of(rows.changed, rows.base_rows)} changed{of}{slice_phrase(where)}")
    return found


def slice_phrase(found: Slice | None) -> str:
    """Return where a difference is concentrated: `, all with service_id = 27`; empty for none."""
    if not found:
        return ""
    return f", {'all' if found.inside == found.different else percent(found)} with {held(found)}"


def slice_sentence(found: Slice) -> str:
    """Return where a difference is concentrated, and how much of the table that is."""
    is_column = found.of not in ("added", "removed")
    what = f"changed values of {value(found.of)}" if is_column else f"{found.of} rows"
    of = f"All {found.different:,}" if found.inside == found.different else f"{found.inside:,} of {found.different:,}"
    have = "are in rows with" if is_column else "have"
    side = "branch" if found.of == "added" else "base"
    if found.inside == found.rows:
        rest = f"the {side} has no other such row"
    else:
        rest = f"the {side} has {count(found.rows, 'such row')} of {found.table_rows:,}"
    return f"{of} {what} {have} {held(found)}; {rest}."


def percent(found: Slice) -> str:
    """Return the share of the differences that are inside the slice FOUND; only all are 100%."""
    return f"{min(99, round(100 * found.inside / found.different))}%"


def held(found: Slice) -> str:
    """Return the condition of the slice FOUND as it follows `with`."""
    return re.sub(" is (not )?null$", r" \1null", value(found.condition))


def column_sentence(change: ColumnChange) -> str:
    """Return how many values of a column differ, and by how much."""
    sentence = f"{value(change.name)}: {count(change.rows, 'value')} changed"
    figures = [figure for figure in (change.smallest, change.median, change.largest) if figure is not None]
    if len(figures) == 3:
        smallest, median, largest = (signed(change.type, figure) for figure in figures)
        if smallest == largest:
            sentence += f", {'each ' if change.rows > 1 else ''}by {smallest}"
        else:
            sentence += f", by {smallest} to {largest}, median {median}"
    if change.became_null:
        sentence += f", {change.became_null:,} became null"
    if change.was_null:
        sentence += f", {change.was_null:,} were null"
    return f"{sentence}."


def schema_sentence(change: SchemaChange) -> str:
    """Return a difference of a model's definition: `column fee retyped from integer to numeric`."""
    base, branch = (value(text) if text else text for text in (change.base, change.branch))
    what = value(change.what) if change.what else ""
    if change.kind == "column renamed":
        return f"column {base or what} renamed to {branch or what}"
    if change.kind == "description":
        subject = f"description of {what or 'the model'}"
        base, branch = (f"“{text}”" if text else text for text in (base, branch))
    else:
        subject = " ".join(filter(None, [change.kind.split(" ", maxsplit=1)[0], what]))
    if change.kind == "column added" or (base is None and branch is not None):
        return f"{subject} added{in_brackets(branch, what)}"
    if change.kind == "column removed" or (branch is None and base is not None):
        return f"{subject} removed{in_brackets(base, what)}"
    verb = "retyped" if change.kind == "column retyped" else "changed"
    return f"{subject} {verb}{f' from {base} to {branch}' if base else ''}"


def in_brackets(text: str | None, what: str) -> str:
    """Return TEXT in brackets; nothing if WHAT says it already, as `not null of fee` does."""
    return "" if not text or what.startswith(f"{text} of ") else f" ({text})"


def right_side(mart: Mart) -> str:
    """Return which side has the expected rows of MART: `base`, `branch`, `both` or `neither`; empty if it is unknown.

    A side that is right after a full refresh and wrong after an incremental run is wrong. Of a removed mart it is not
    known: nobody has computed whether it is needed.
    """
    agrees = {
        side: all(verdicts[side].agrees for verdicts in (mart.verdicts, mart.incremental_verdicts) if side in verdicts)
        for side in ("base", "branch")
        if side in mart.verdicts or side in mart.incremental_verdicts
    }
    right = [side for side, is_right in agrees.items() if is_right]
    if len(agrees) < 2:
        return "" if "branch" not in agrees else "branch" if right else "neither"
    return {0: "neither", 1: "".join(right[:1]), 2: "both"}[len(right)]


def right_sides(marts: Sequence[Mart]) -> str:
    """Return which side is right, over all MARTS that both have; empty if that is not known of any."""
    by_side: dict[str, list[str]] = {}
    for mart in (mart for mart in marts if mart.in_base and mart.in_branch):
        by_side.setdefault(right_side(mart), []).append(value(mart.name))
    if not by_side.keys() - {""}:
        return ""
    if by_side.keys() <= {"", "both"}:
        where = "" if "" not in by_side else f" in {listed(by_side['both'])}"
        return f"both sides agree with {ORACLE}{where}"
    texts = {
        "base": "the branch is wrong and the base right",
        "branch": "the branch is right and the base wrong",
        "neither": "both sides are wrong",
    }
    found = [
        text if len(by_side) == 1 == len(marts) else f"{text} in {listed(by_side[side])}"
        for side, text in texts.items()
        if side in by_side
    ]
    return f"by {ORACLE} {', '.join(found)}"


def verdict_sentence(verdicts: dict[str, Verdict]) -> str:
    """Return which side agrees with the independent computation; empty if no side was compared with it."""
    agree = [side for side, verdict in verdicts.items() if verdict.agrees]
    wrong = [side for side in verdicts if side not in agree]
    if not wrong:
        both = len(agree) == 2
        return f"{'Both sides agree' if both else f'The {agree[0]} agrees'} with {ORACLE}." if agree else ""
    texts = {side: value(verdicts[side].text, VERDICT_CHARS) for side in wrong if verdicts[side].text}
    if len(wrong) == 2:
        first = f"No side agrees with {ORACLE}"
    elif agree:
        first = f"The {agree[0]} agrees with {ORACLE}, the {wrong[0]} does not"
    else:
        first = f"The {wrong[0]} does not agree with {ORACLE}"
    reasons = "; ".join(f"the {side}: {text}" if len(wrong) == 2 else text for side, text in texts.items())
    return f"{': '.join(filter(None, [first, reasons]))}.".replace("..", ".")


def approval_phrase(approval: Approval | None, data_differs: bool) -> str:
    """Return whether the differences are approved, in a phrase for the headline."""
    if approval is None:
        return "nothing is approved: there is no dbt/expected_changes.yml" if data_differs else ""
    found = []
    if approval.unapproved:
        found.append(f"not approved: {listed([str(each) for each in approval.unapproved])}")
    if approval.absent:
        found.append(f"approved, but not found: {listed([str(each) for each in approval.absent])}")
    if not found and approval.approved:
        found.append("all of it is approved")
    return "; ".join(found)


def duplicate_sentences(rows: Rows) -> list[str]:
    """Return a sentence for each side whose key is not unique."""
    found = []
    for side, duplicates in rows.duplicates.items():
        keys = f"{count(duplicates.keys, 'key')} {'occurs' if duplicates.keys == 1 else 'occur'} more than once"
        example = ", ".join(f"{value(name)} = {value(text)}" for name, text in duplicates.example.items())
        found.append(f"The key is not unique in the {side}: {keys}, {example} in {count(duplicates.rows, 'row')}.")
    return found


def incremental_sentences(mart: Mart) -> list[str]:
    """Return what is different after an incremental run; nothing if it leads to the same as a full refresh."""
    rows, after = mart.rows, mart.incremental_rows
    if not after or repeats(mart):
        return []
    found = []
    phrases = "; ".join(row_phrases(after))
    if differs_only_incrementally(mart):
        how = "is wrong" if right_side(mart) == "base" else "differs"
        found.append(f"It {how} only after a second run, an incremental one; a full refresh hides it: {phrases}.")
    elif after.are_same and rows and not rows.are_same:
        found.append("After an incremental run both sides are the same; they differ only after a full refresh.")
    elif phrases:
        found.append(f"After an incremental run: {phrases}.")
    other = [side for side in ("base", "branch") if rows and rows.digests.get(side) != after.digests.get(side)]
    if other:
        sides = "both sides" if len(other) == 2 else f"the {other[0]}"
        found.append(f"In {sides} an incremental run leaves other rows than a full refresh.")
    return [*found, *filter(None, [verdict_sentence(mart.incremental_verdicts)])]


def build_seconds(mart: Mart) -> str:
    """Return the seconds of both builds of MART: `1.2 s → 1.4 s`; empty if they are unknown."""
    return " → ".join(f"{mart.builds[side].seconds:.1f} s" for side in ("base", "branch") if side in mart.builds)


def build_sentence(mart: Mart) -> str:
    """Return how long MART was built on both sides, and how many rows that read."""
    found = []
    for side in ("base", "branch"):
        if build := mart.builds.get(side):
            scanned = "" if build.rows_scanned is None else f", {count(build.rows_scanned, 'row')} read"
            found.append(f"{side} {build.seconds:.1f} s{scanned}")
    return "; ".join(found)


def with_rows(mart: Mart) -> str:
    """Return how many rows MART has on the one side that has it: `, with 12 rows`; empty if it is not known."""
    return "" if mart.only_rows is None else f", with {count(mart.only_rows, 'row')}"


def summary(mart: Mart) -> list[str]:
    """Return all that is known of MART but its examples, builds and pictures, a sentence each."""
    causes = [value(cause) for cause in mart.causes]
    found = [f"{'Cause' if len(causes) == 1 else 'Causes'}: {listed(causes, 8)}."] if causes else []
    if not mart.in_base:
        found.append(f"The model is new: only the branch has it{with_rows(mart)}.")
    elif not mart.in_branch:
        found.append(f"The model was removed: only the base has it{with_rows(mart)}.")
    elif mart.rows is None:
        found.append("Its rows cannot differ; only its definition does.")
    elif mart.rows.are_same:
        found.append(f"After a full refresh both sides have the same {count(mart.rows.base_rows, 'row')}.")
    else:
        phrases = "; ".join(row_phrases(mart.rows, is_short=True))
        found.append(f"{phrases[0].upper()}{phrases[1:]}.")
        found += [slice_sentence(each) for each in mart.rows.slices]
        found += [column_sentence(column) for column in mart.rows.columns]
    found += filter(None, [verdict_sentence(mart.verdicts)])
    found += duplicate_sentences(mart.rows) if mart.rows else []
    found += incremental_sentences(mart)
    found += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in map(schema_sentence, mart.schema)]
    if mart.rows and not mart.key:
        found.append(
            "No key is declared: rows were compared as a multiset, so a changed row is one removed and one added."
        )
    if mart.exposures:
        found.append(f"Read by {listed([value(name) for name in mart.exposures], 8)}.")
    return found
