"""The text of a contract: YAML of the Open Data Contract Standard 3.1, of which each field has a line."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from open_data_contract_standard.model import OpenDataContractStandard, SchemaObject, SchemaProperty
from pydantic import ValidationError

from feeds.contract import Properties
from feeds.errors import ContractInvalid

CHECK = "Correct it, then run: nox -s feed -- check"

_MOST_NODES = 1_000_000  # of YAML: the largest table has some 10,000

Field = tuple[str, ...]  # its way from the top: keys, and positions or names of a list's items


class Document:
    """A contract as it is written.

    Attributes:
        path: its file.
        contract: all of it, in the standard's model.
        properties: its custom properties.
    """

    def __init__(self, path: Path) -> None:
        """Read the contract at PATH; raise ContractInvalid if it is no YAML or not of the standard."""
        self.path = path
        self._tree: Any = None
        self.contract, self.properties = self._read()

    def custom_properties(
        self, at: Field, of: OpenDataContractStandard | SchemaObject | SchemaProperty
    ) -> dict[str, Any]:
        """Return the custom properties OF the field AT by name."""
        found = [(str(one.property), one.value) for one in of.customProperties or []]
        names = [name for name, _ in found]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise self.invalid((*at, "customProperties", twice), "is there twice", "Write one, with all that it says.")
        return dict(found)

    def invalid(self, at: Field, what: str, next_step: str) -> ContractInvalid:
        """Return the error that names the field AT with its line, WHAT is wrong there, and the NEXT_STEP."""
        field, line = _place(self._tree, at)
        return ContractInvalid(
            f"{self.path}, line {line}: {field or 'it'} {what}.",
            "The contract says what a load can read, and a load cannot read this.",
            next_step,
        )

    def invalid_field(self, error: Exception, at: Field = ()) -> ContractInvalid:
        """Return the error that names the first field that ERROR is about, below the field AT."""
        if not isinstance(error, ValidationError):
            return self.invalid(at, f"cannot be read: {error}", CHECK)
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        if at == ("customProperties",) and len(place) > 1:
            place.insert(1, "value")
        return self.invalid((*at, *place), f"is not valid: {first['msg']}", "docs/contracts.md has all fields.")

    def _read(self) -> tuple[OpenDataContractStandard, Properties]:
        """Return the contract and its custom properties, as the standard and `Properties` say they must be."""
        try:
            text = self.path.read_text(encoding="utf-8")
            self._tree = yaml.compose(text, Loader=yaml.SafeLoader)
            if _size(self._tree, {}) > _MOST_NODES:
                raise yaml.composer.ComposerError(problem="its aliases repeat too much")
            data = yaml.safe_load(text)
        except OSError as error:
            raise ContractInvalid(
                f"{self.path} cannot be read: {error.strerror}.",
                "The name of the feed is most likely misspelt, or its contract was moved.",
                CHECK,
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or getattr(error, "reason", None)
            if isinstance(error, UnicodeDecodeError):
                problem = "it is not UTF-8"
            elif isinstance(error, RecursionError):
                problem = "it has too many levels"
            problem = problem or str(error)
            raise ContractInvalid(
                f"{self.path}{line}: it is not YAML: {problem}.",
                "A contract is YAML, with spaces for indentation and quotes around texts with special characters.",
                CHECK,
            ) from None
        if not isinstance(data, dict):
            raise self.invalid((), "is no mapping", "Begin it with apiVersion: v3.1.0")
        if twice := next(_keys_twice(self._tree), None):
            raise self.invalid(twice, "is there twice", "Remove one: YAML would take the last.")
        try:
            contract = OpenDataContractStandard(**data)
        except (ValidationError, TypeError) as error:
            raise self.invalid_field(error) from None
        if contract.kind != "DataContract" or not re.fullmatch(r"v3\.[01]\.[0-9]+", contract.apiVersion or ""):
            raise self.invalid(("apiVersion",), "is not v3.1.0 of a DataContract", "Write apiVersion: v3.1.0")
        if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", contract.version or ""):
            raise self.invalid(("version",), f"is {contract.version!r}", "Write three numbers, such as 1.0.0.")
        if unknown := next(_unknown(data, contract.model_dump(by_alias=True, exclude_unset=True)), None):
            raise self.invalid(unknown, "is no field of the standard", "It is most likely misspelt, or too far in.")
        custom = self.custom_properties((), contract)
        try:
            return contract, Properties.model_validate(custom)
        except ValidationError as error:
            raise self.invalid_field(error, ("customProperties",)) from None


def _place(node: Any, at: Sequence[str]) -> tuple[str, int]:
    """Return the name and the line (from 1) of the field AT below NODE, or of the nearest one that is there.

    A part of AT is a key, or the position of an item in a list, or its name.
    """
    line = node.start_mark.line + 1 if node is not None else 1
    names = []
    for part in at:
        name = part
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            line, node = (found[0].start_mark.line + 1, found[1]) if found else (line, None)
        elif isinstance(node, yaml.SequenceNode):
            items = {str(number): item for number, item in enumerate(node.value)}
            items |= {_name(item): item for item in reversed(node.value) if _name(item)}
            node = items.get(part)
            if node is not None:
                line, name = node.start_mark.line + 1, _name(node) or part
        names.append(name)
    return ".".join(names).replace(".value.", ".").removesuffix(".value"), line


def _name(node: Any) -> str:
    """Return the name of NODE, an item of a list, if it has one."""
    if not isinstance(node, yaml.MappingNode):
        return ""
    return next((str(value.value) for key, value in node.value if key.value in ("name", "property")), "")


def _size(node: Any, known: dict[int, float]) -> float:
    """Return how many nodes NODE is with all that its aliases repeat; KNOWN has that of others, by their id."""
    if (size := known.get(id(node))) is None:
        known[id(node)] = math.inf  # an alias within what it repeats
        of = getattr(node, "value", ())
        children = [one for pair in of for one in pair] if isinstance(node, yaml.MappingNode) else of
        size = 1 + sum(_size(child, known) for child in children if isinstance(child, yaml.Node))
        known[id(node)] = size
    return size


def _keys_twice(node: Any, at: Field = ()) -> Iterator[Field]:
    """Yield the fields below NODE whose mapping has them twice."""
    if isinstance(node, yaml.MappingNode):
        names = [str(key.value) for key, _ in node.value]
        yield from ((*at, name) for name in names if names.count(name) > 1)
        for name, (_, value) in zip(names, node.value, strict=True):
            yield from _keys_twice(value, (*at, name))
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _keys_twice(item, (*at, str(number)))


def _unknown(data: Any, known: Any, at: Field = ()) -> Iterator[Field]:
    """Yield the fields of DATA that are not in KNOWN, what a model has kept of it."""
    if isinstance(data, dict) and isinstance(known, dict):
        for name, value in data.items():
            if name in known:
                yield from _unknown(value, known[name], (*at, str(name)))
            else:
                yield (*at, str(name))
    elif isinstance(data, list) and isinstance(known, list):
        for number, (item, kept) in enumerate(zip(data, known, strict=False)):
            yield from _unknown(item, kept, (*at, str(number)))
