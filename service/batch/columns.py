"""Types of columns: what rows of JSON hold, and what several files have together."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from models.errors import UsageError
from service.batch.files import Source

_MISSING = object()


def merge(types: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Widen `types` to what `rows` hold."""
    for name in dict.fromkeys(name for row in rows for name in row):
        types[name] = wider(types.get(name, _MISSING), _type_of([row.get(name) for row in rows]))


def _type_of(values: Sequence[Any]) -> Any:
    if any(isinstance(value, dict) or (isinstance(value, list) and "{" in json.dumps(value)) for value in values):
        return pa.string()  # objects become JSON: a struct would lose the keys that only later rows have
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # of several kinds, beyond 64 bits, or with a lone surrogate
        return pa.string()


def wider(known: Any, new: Any) -> Any:
    """The type that holds what both hold; text, as JSON, where they are of two kinds."""
    if known is _MISSING or known == new or pa.types.is_null(known):
        return new
    if pa.types.is_null(new):
        return known
    if {known, new} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(known) and pa.types.is_list(new):
        inner = wider(known.value_type, new.value_type)
        if inner == pa.string() and not {known.value_type, new.value_type} <= {pa.string(), pa.null()}:
            return pa.string()  # lists of several kinds become JSON
        return pa.list_(inner)
    return pa.string()


def unite(sources: Sequence[Source], schemas: Sequence[Any]) -> Any:
    """One schema that has the columns of all; one of JSON's null alone becomes text, one that a file lacks may be null.

    UsageError where two files have a column of types that do not go together.
    """
    first = schemas[0]
    if any(schema != first for schema in schemas):
        try:
            kinds: dict[str, set[Any]] = {}
            for schema in schemas:
                for each in schema:
                    kinds.setdefault(each.name, set()).add(each.type)
            first = pa.unify_schemas([_loosened(schema, kinds) for schema in schemas], promote_options="permissive")
        except pa.ArrowException as error:
            names = ", ".join(source.shown for source in sources[:3])
            raise UsageError(
                f"the columns of {names} do not go together ({str(error).splitlines()[0]}). Score the files apart, or write .jsonl."
            ) from error
    alike = all(schema == schemas[0] for schema in schemas)
    return pa.schema([_settled(field) for field in first], metadata=schemas[0].metadata if alike else None)


def _loosened(schema: Any, kinds: Mapping[str, set[Any]]) -> Any:
    """`schema` with columns that may be null, and such as are encoded by dictionary in some files alone not encoded; `kinds` are
    the types that a column has in any file."""
    fields = []
    for each in schema:
        kind = each.type.value_type if pa.types.is_dictionary(each.type) and len(kinds[each.name]) > 1 else each.type
        fields.append(each.with_type(kind).with_nullable(True))
    return pa.schema(fields)


def _settled(field: Any) -> Any:
    """`field`, of text where nothing but nulls was seen."""
    if pa.types.is_list(field.type) and pa.types.is_null(field.type.value_type):
        return field.with_type(pa.list_(pa.string()))
    return field.with_type(pa.string()) if pa.types.is_null(field.type) else field
