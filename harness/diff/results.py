"""What a comparison has found; `build/diff/diff.json` has these fields, see docs/diff.md."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ColumnChange:
    """Values of a column that differ in rows of the same key.

    Attributes:
        type: the type as which they were compared.
        rows: how many differ.
        became_null: how many of them are null in the branch only.
        was_null: how many of them are null in the base only.
        smallest, median, largest: of the differences, branch minus base; None unless it has numbers or times.
    """

    name: str
    type: str
    rows: int
    became_null: int = 0
    was_null: int = 0
    smallest: str | None = None
    median: str | None = None
    largest: str | None = None


@dataclass(frozen=True)
class Example:
    """A row that differs: its key, and its other values on each side; of a changed row those that differ."""

    kind: str  # changed, removed or added
    key: dict[str, str | None]
    base: dict[str, str | None] | None
    branch: dict[str, str | None] | None


@dataclass(frozen=True)
class Slice:
    """Where a difference is concentrated: `service_id = 27`, `created_at from 2020-02-01 on`.

    Attributes:
        of: what differs: `added`, `removed`, or the changed column.
        condition: which rows are meant.
        inside: how many of the differing rows fulfil it.
        different: how many rows differ so.
        rows: how many rows of the table fulfil it.
        table_rows: how many rows the table has.
    """

    of: str
    condition: str
    inside: int
    different: int
    rows: int
    table_rows: int


@dataclass(frozen=True)
class DuplicateKeys:
    """Keys that occur more than once: how many, and one of them with the number of its rows."""

    keys: int
    rows: int
    example: dict[str, str | None]


@dataclass
class Rows:
    """The rows of a mart on both sides.

    Attributes:
        duplicates: by side (`base`, `branch`), where the key is not unique.
        digests: of each side's content, comparable in one run.
    """

    base_rows: int
    branch_rows: int
    added: int = 0
    removed: int = 0
    changed: int = 0
    columns: list[ColumnChange] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    duplicates: dict[str, DuplicateKeys] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def are_same(self) -> bool:
        """Whether both sides have the same rows."""
        return not (self.added or self.removed or self.changed)


@dataclass(frozen=True)
class SchemaChange:
    """A difference of a model's definition that its rows do not show.

    Attributes:
        kind: `column added`, `column removed`, `column renamed`, `column retyped`, `constraint`, `test`, `description`,
            `materialization`, `key`, `place` (its schema or name).
        what: the column, constraint or test; empty for the model itself.
        base: what it is in the base; None if it is not there.
        branch: the same of the branch.
    """

    kind: str
    what: str
    base: str | None = None
    branch: str | None = None


@dataclass(frozen=True)
class Build:
    """The build of a model: its seconds in dbt, and the rows that its statements read; None if it is not known."""

    seconds: float
    rows_scanned: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a side's rows are those of the independent computation; if not, what differs, in a few words."""

    agrees: bool
    text: str = ""


@dataclass
class Mart:
    """A mart on both sides.

    Attributes:
        path: of its SQL, from the repository's root.
        key: the columns of its declared key; none if rows are compared as a multiset.
        in_base, in_branch: whether the side has it.
        causes: what of it, or of what it reads, has changed: `its SQL`, `the macro is_in_spans`, `stg_events` …; none
            if one side lacks it.
        rows: after a full refresh; None if one side lacks it, or they cannot differ.
        only_rows: of a mart that one side lacks, how many rows the other one has.
        incremental_rows: after an incremental run, where that was made.
        verdicts: by side, where the expected rows are computed independently.
        exposures: who reads it, also through other models.
        builds: by side.
        series: what is drawn: rows, and sums of changed numbers, by day or month.
    """

    name: str
    path: str
    key: tuple[str, ...]
    in_base: bool = True
    in_branch: bool = True
    causes: list[str] = field(default_factory=list)
    schema: list[SchemaChange] = field(default_factory=list)
    only_rows: int | None = None
    rows: Rows | None = None
    incremental_rows: Rows | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    incremental_verdicts: dict[str, Verdict] = field(default_factory=dict)
    exposures: list[str] = field(default_factory=list)
    builds: dict[str, Build] = field(default_factory=dict)
    series: list["Series"] = field(default_factory=list)

    @property
    def differences(self) -> set["Difference"]:
        """Its differences that need an approval: of its rows after either run, and of its columns."""
        if not self.in_base:
            return {Difference(self.name, "model added")}
        if not self.in_branch:
            return {Difference(self.name, "model removed")}
        found = {Difference(self.name, change.kind, change.what) for change in self.schema if "column" in change.kind}
        for rows in filter(None, (self.rows, self.incremental_rows)):
            if rows.added:
                found.add(Difference(self.name, "rows added"))
            if rows.removed:
                found.add(Difference(self.name, "rows removed"))
            found |= {Difference(self.name, "values changed", column.name) for column in rows.columns}
        return found


@dataclass(frozen=True)
class Series:
    """A number by day or by month on both sides, to be drawn.

    Attributes:
        title: `rows by day of created_at`, `sum of service_lead_fee by month of created_at`.
        points: the (first) day in ISO, the base's number and the branch's; None where a side has no row then.
    """

    title: str
    points: list[tuple[str, float | None, float | None]]


@dataclass(frozen=True)
class ChangedNode:
    """A model, seed or other node of dbt that is not the same on both sides, and in what."""

    name: str
    what: list[str]  # `SQL`, `SQL (only comments or blanks)`, `contract`, `the macro is_in_spans` …


@dataclass
class Diff:
    """All that a comparison has found.

    Attributes:
        base: the base as the user or the default names it, and its commit.
        branch: the branch's commit, with ` and uncommitted changes` if there are some.
        data: which rows were loaded: `the samples: 19,012 events`.
        load: the files of the load, contracts too, that differ; if there are some, each side has loaded by its own.
        changed: what was changed in the dbt project.
        built: the models that were built on both sides.
        unaffected: the marts that cannot differ, and so are the base's.
        marts: those that were compared, those with differences first.
        notes: what else a reader must know; each has up to three lines.
        approval: None without `dbt/expected_changes.yml`; else the outcome.
        seconds: what each phase took, by its name.
        failure: the three lines of the error, if the branch's incremental run failed; it is a note, too.
    """

    base: str
    branch: str
    data: str
    load: list[str] = field(default_factory=list)
    changed: list[ChangedNode] = field(default_factory=list)
    built: list[str] = field(default_factory=list)
    unaffected: list[str] = field(default_factory=list)
    marts: list[Mart] = field(default_factory=list)
    notes: list[list[str]] = field(default_factory=list)
    approval: "Approval | None" = None
    failure: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def load_differs(self) -> bool:
        """Whether each side has loaded the rows by itself."""
        return bool(self.load)


@dataclass(frozen=True, order=True)
class Difference:
    """One difference as `dbt/expected_changes.yml` names it.

    Attributes:
        kind: `rows added`, `rows removed`, `values changed`, `column added`, `column removed`, `column retyped`,
            `column renamed`, `model added`, `model removed`.
        column: for kinds that are about one.
    """

    model: str
    kind: str
    column: str = ""

    def __str__(self) -> str:
        return f"{self.model}: {self.kind}{f' ({self.column})' if self.column else ''}"


@dataclass(frozen=True)
class Approval:
    """How the approved differences fit those that were found."""

    approved: list[Difference] = field(default_factory=list)
    unapproved: list[Difference] = field(default_factory=list)
    absent: list[Difference] = field(default_factory=list)  # approved, and not found
