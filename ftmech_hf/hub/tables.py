"""The texts in Parquet and Arrow files: columns, however deep, their names, and what libraries write beside them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ftmech_hf.hub.texts import Change, check_binary, rewrite_text, walk

BATCH = 4096


def rewrite_parquet(path: Path, change: Change) -> bool:
    """Change the texts of a Parquet file, a batch of rows at a time; says whether there was anything to change."""
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid:
        check_binary(path.read_bytes(), change)
        return False
    with file:
        schema = _rewrite_schema(file.schema_arrow, change)
        if schema.equals(file.schema_arrow, check_metadata=True) and not any(
            _differs(column, change) for batch in file.iter_batches(BATCH) for column in batch.columns
        ):
            return False
        beside = path.with_name(f".{path.name}.tmp")
        with pq.ParquetWriter(beside, schema, compression="zstd") as writer:
            for batch in file.iter_batches(BATCH):
                writer.write_batch(_rewrite_batch(batch, schema, change))
    beside.replace(path)
    return True


def rewrite_arrow(data: bytes, change: Change) -> bytes:
    """The content of an Arrow file or stream with its texts changed."""
    try:
        is_file = data.startswith(b"ARROW1")
        reader = pa.ipc.open_file(data) if is_file else pa.ipc.open_stream(data)
        table = reader.read_all()
    except pa.ArrowInvalid:
        check_binary(data, change)
        return data
    schema = _rewrite_schema(table.schema, change)
    batches = [_rewrite_batch(batch, schema, change) for batch in table.to_batches(max_chunksize=BATCH)]
    if schema.equals(table.schema, check_metadata=True) and all(
        new.equals(old) for new, old in zip(batches, table.to_batches(max_chunksize=BATCH), strict=True)
    ):
        return data
    sink = io.BytesIO()
    with (pa.ipc.new_file if is_file else pa.ipc.new_stream)(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def _rewrite_schema(schema: pa.Schema, change: Change) -> pa.Schema:
    """Names of columns and what libraries write beside them: pandas and datasets each a JSON."""

    def values(metadata: dict[bytes, bytes] | None) -> dict[bytes, bytes]:
        return {
            key: rewrite_text(value.decode("utf-8", "replace"), ".json", change).encode()
            for key, value in (metadata or {}).items()
            if key != b"ARROW:schema"
        }

    fields = [
        (field.with_name(change(field.name)) if re.search(r"[/\\]", field.name) else field).with_metadata(
            values(field.metadata) or None
        )
        for field in schema
    ]
    return pa.schema(fields, metadata=values(schema.metadata) or None)


def _rewrite_batch(batch: pa.RecordBatch, schema: pa.Schema, change: Change) -> pa.RecordBatch:
    columns = [
        pa.array(walk(column.to_pylist(), change), type=column.type) if _differs(column, change) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _differs(column: pa.Array, change: Change) -> bool:
    """Whether a text in a column would change; looks at all of them at once, as nearly always none does."""
    for leaf in _leaves(column):
        texts = [
            value.decode("latin-1") if isinstance(value, bytes) else value
            for value in leaf.unique().to_pylist()
            if value is not None
        ]
        together = "\n".join(texts)
        if change(together) != together or any(change(text) != text for text in texts if len(text) < 100):
            return True
    return False


def _leaves(array: pa.Array) -> Iterator[pa.Array]:
    """The arrays of texts and bytes in an array, however deep."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        yield from _leaves(array.dictionary)
    elif pa.types.is_struct(kind):
        for part in array.flatten():
            yield from _leaves(part)
    elif pa.types.is_map(kind):
        yield from _leaves(array.keys)
        yield from _leaves(array.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(array.flatten())
    elif isinstance(array, pa.ExtensionArray):
        yield from _leaves(array.storage)
    elif any(
        test(kind)
        for test in (
            pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary,
            pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary,
        )
    ):  # fmt: skip
        yield array.cast(pa.large_string()) if pa.types.is_string_view(kind) else array
