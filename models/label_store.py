"""The label store: every label that was ever given, none changed, none taken back.

A label is a sentence, its label, who gave it, when, and what the model had said. A later label by the same annotator for the same
sentence takes the place of the earlier one in what is read as current; both stay. Each has a key: the same key twice is the same
label, stored once. SQLite (write-ahead log, synced at every commit) or any database that SQLAlchemy reaches, PostgreSQL among them.
"""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from models.errors import LabelStoreError, UsageError
from models.text import normalise

DEFAULT_URL = "sqlite:///labels.db"
_MIGRATIONS = Path(__file__).parent / "label_migrations"
_BUSY_S = 30
_CONNECT_S = 5
# a connection that died without a word is given up after about a minute (libpq; the last one in ms)
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}
_PAGE = 1000

_metadata = sa.MetaData()
_labels = sa.Table(
    "labels",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(200), nullable=False, unique=True),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("label", sa.String(100), nullable=False),
    sa.Column("annotator", sa.String(100), nullable=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("model_id", sa.String(64)),
    sa.Column("predicted", sa.String(100)),
    sa.Column("confidence", sa.Float),
    sa.Column("note", sa.Text),
)
_seen = sa.Table(
    "seen",
    _metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("predicted", sa.String(100), nullable=False),
    sa.Column("confidence", sa.Float, nullable=False),
    sa.Column("model_id", sa.String(64), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Label:
    """One label; `predicted`, `confidence` and `model_id` are what the model said when it was given, where it said something."""

    sentence: str
    label: str
    annotator: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    model_id: str | None = None
    predicted: str | None = None
    confidence: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A sentence of which the service was not sure: how often it came, and what the model said."""

    sentence: str
    times: int
    predicted: str
    confidence: float
    model_id: str


class KeyTaken(Exception):
    """A key that stands for another label already."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def digest_of(sentence: str) -> str:
    """What tells a sentence from another: the SHA-256 of its normal form."""
    return hashlib.sha256(normalise(sentence).encode("utf-8")).hexdigest()


class LabelStore:
    """The store at one database; safe to use from many threads and processes."""

    def __init__(self, url: str) -> None:
        """Open it, and bring its tables to this release's; LabelStoreError where that cannot be done."""
        self.url = url
        with self._said():
            try:
                self._engine = sa.create_engine(url, **_options(url))
            except sa.exc.ArgumentError as error:
                raise UsageError(f"{url.partition('://')[0]!r} is no database. Write sqlite:///FILE or postgresql://...") from error
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _set_up)
                sa.event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
            if self._engine.dialect.name == "postgresql":
                sa.event.listen(self._engine, "connect", _set_patience)
            self._migrate()

    def add(self, labels: Sequence[Label]) -> list[bool]:
        """Store `labels`, all or none, and sync; whether each is new, a repeated key being the label that is there already.

        KeyTaken where a key stands for another sentence, label or annotator.
        """
        rows = [{**_columns(label), "digest": digest_of(label.sentence)} for label in labels]
        fresh: list[bool] = []
        with self._said(), self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":  # writers take turns, whatever the order of their keys
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7262002)"))
            for row in rows:
                known = self._find(connection, row["key"])
                if known is None:
                    insert = self._insert(_labels).values(**row).on_conflict_do_nothing(index_elements=["key"])
                    inserted = connection.execute(insert)
                    fresh.append(inserted.rowcount == 1)
                    known = None if inserted.rowcount == 1 else self._find(connection, row["key"])
                else:
                    fresh.append(False)
                if known is not None and any(known[name] != row[name] for name in ("digest", "label", "annotator")):
                    raise KeyTaken(str(row["key"]))
        return fresh

    def read(self) -> Iterator[Label]:
        """Every label, in the order in which they were stored."""
        after = 0
        names = [column for column in _labels.c if column.name not in ("id", "digest")]
        while True:
            query = sa.select(_labels.c.id, *names).where(_labels.c.id > after).order_by(_labels.c.id).limit(_PAGE)
            with self._said(), self._engine.connect() as connection:
                page = connection.execute(query).mappings().all()
            for row in page:
                yield Label(**{name: value for name, value in row.items() if name != "id"})
            if len(page) < _PAGE:
                return
            after = page[-1]["id"]

    def current(self) -> list[Label]:
        """The latest label of each annotator for each sentence, in the order of the sentences' first labels."""
        latest: dict[tuple[str, str], Label] = {}
        for label in self.read():
            latest[digest_of(label.sentence), label.annotator] = label
        return list(latest.values())

    def remember(self, sentences: Sequence[Seen]) -> None:
        """Count sentences of which the service was not sure."""
        with self._said(), self._engine.begin() as connection:
            # in one order, so that two processes never wait for each other's rows
            for each in sorted(sentences, key=lambda each: digest_of(each.sentence)):
                values = {"sentence": each.sentence, "predicted": each.predicted, "confidence": each.confidence}
                insert = self._insert(_seen).values(
                    digest=digest_of(each.sentence), times=each.times, model_id=each.model_id, **values
                )
                connection.execute(
                    insert.on_conflict_do_update(
                        index_elements=["digest"],
                        set_={"times": _seen.c.times + each.times, "model_id": each.model_id, **values},
                    )
                )

    def unsure(self, annotator: str, limit: int) -> list[Seen]:
        """The least sure and most frequent sentences that `annotator` has not labelled, at most `limit`."""
        given = sa.select(_labels.c.digest).where(_labels.c.annotator == annotator)
        order = ((1 - _seen.c.confidence) * _seen.c.times).desc()
        query = sa.select(_seen).where(_seen.c.digest.not_in(given)).order_by(order, _seen.c.digest).limit(limit)
        with self._said(), self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [Seen(**{name: value for name, value in row.items() if name != "digest"}) for row in rows]

    def count(self) -> int:
        """How many labels were ever given."""
        with self._said(), self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(_labels)).scalar_one())

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _find(self, connection: Any, key: object) -> Any:
        return connection.execute(sa.select(_labels).where(_labels.c.key == key)).mappings().first()

    def _insert(self, table: sa.Table) -> Any:
        if self._engine.dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import insert as insert_postgresql

            return insert_postgresql(table)
        from sqlalchemy.dialects.sqlite import insert as insert_sqlite

        return insert_sqlite(table)

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":  # two processes that meet a new database take turns
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7262001)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.SQLAlchemyError, CommandError, ImportError, OSError, ValueError) as error:
            shown = sa.engine.make_url(self.url).render_as_string(hide_password=True) if "://" in self.url else self.url
            said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise LabelStoreError(
                f"the label store at {shown} does not work ({said}). Check STANCEWIRE_DATABASE_URL, the room on its disk, and that "
                "its driver is installed (PostgreSQL: pip install psycopg2-binary)."
            ) from error


def _options(url: str) -> dict[str, Any]:
    """What the engine is made with: nothing may wait without end, and connections that the server has dropped are made anew."""
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": _BUSY_S}}
    options: dict[str, Any] = {"pool_pre_ping": True, "pool_timeout": _BUSY_S}
    if url.partition(":")[0] in ("postgresql", "postgresql+psycopg2", "postgresql+psycopg"):
        options["connect_args"] = {"connect_timeout": _CONNECT_S, **_KEEPALIVE}
    return options


def _columns(label: Label) -> dict[str, Any]:
    return {name: getattr(label, name) for name in label.__slots__}


def _set_patience(connection: Any, record: object) -> None:
    """PostgreSQL: a statement that takes longer than any should is given up by the server."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {_BUSY_S * 1000}")
    connection.commit()


def _set_up(connection: Any, record: object) -> None:
    """SQLite: readers and one writer at a time, every commit on the disk; transactions begin with the writer's lock."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
