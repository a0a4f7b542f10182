"""The label store on SQLite and on a real PostgreSQL: what was acknowledged is there once, whoever was killed."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.errors import LabelStoreError, UsageError
from models.label_store import KeyTaken, Label, LabelStore, Seen
from tests.postgres import postgres, programs

KILLS, WRITERS = 200, 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/labels.db"
    found: str = request.getfixturevalue("server")
    with sa.create_engine(found).begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    return found


def test_a_connection_that_dies_without_a_word_is_given_up(server: str) -> None:
    store = LabelStore(server)
    with store._engine.connect() as connection:
        known = connection.connection.driver_connection.info.dsn_parameters  # type: ignore[union-attr]
    store.close()
    assert (known["tcp_user_timeout"], known["keepalives_idle"]) == ("30000", "30")


def test_labels_are_kept_in_order_and_once(url: str) -> None:
    store = LabelStore(url)
    rest = {"note": "n", "predicted": "neutral", "confidence": 0.5}
    labels = [Label(f"Sentence {n % 7} “대화”.", "neutral", f"a{n % 3}", **rest) for n in range(2500)]  # type: ignore[arg-type]
    assert store.add(labels) == [True] * 2500
    assert store.add([*labels[:3], Label("new", "neutral", "a")]) == [False, False, False, True]
    assert list(store.read())[:2500] == labels
    assert (store.count(), len(store.current())) == (2501, 22)
    with pytest.raises(KeyTaken) as caught:
        store.add([Label("another", "neutral", "a", key="fresh"), Label("other", "neutral", "a1", key=labels[0].key)])
    assert caught.value.key == labels[0].key
    assert store.count() == 2501, "all or none"
    again = LabelStore(url)
    assert again.count() == 2501
    store.close()
    again.close()


def test_what_is_unsure_is_counted(url: str) -> None:
    store = LabelStore(url)
    store.remember([Seen("Often.", 5, "neutral", 0.5, "m"), Seen("Once.", 1, "neutral", 0.4, "m")])
    store.remember([Seen("Once.", 1, "pro_dialogue", 0.45, "m2")])
    assert store.unsure("Ann", 9) == [Seen("Often.", 5, "neutral", 0.5, "m"), Seen("Once.", 2, "pro_dialogue", 0.45, "m2")]
    store.add([Label("Often.", "neutral", "Ann")])
    assert [each.sentence for each in store.unsure("Ann", 9)] == ["Once."]
    assert len(store.unsure("Bo", 9)) == 2
    store.close()


def write_labels(url: str, writer: int, start: int, acknowledged: Path) -> None:
    """Add labels one by one, each noted in `acknowledged` once the store has taken it."""
    os.close(2)
    store = LabelStore(url)
    with acknowledged.open("a", buffering=1) as stream:
        for number in range(start, start + 100_000):
            key = f"{writer}-{number}"
            store.add([Label(f"Sentence {key}.", "neutral", f"writer {writer}", key=key)])
            stream.write(f"{key}\n")


def test_four_writers_killed_two_hundred_times(url: str, tmp_path: Path) -> None:
    LabelStore(url).close()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_label_store"])
    draw = random.Random(3)
    notes = [tmp_path / f"writer-{writer}" for writer in range(WRITERS)]
    starts = [0] * WRITERS

    def begin(writer: int) -> Any:
        starts[writer] += 100_000
        process = context.Process(target=write_labels, args=(url, writer, starts[writer], notes[writer]))
        process.start()
        return process

    running = [begin(writer) for writer in range(WRITERS)]
    for _ in range(KILLS):
        time.sleep(draw.uniform(0, 0.3))
        writer = draw.randrange(WRITERS)
        os.kill(running[writer].pid, signal.SIGKILL)
        running[writer].join()
        assert running[writer].exitcode == -signal.SIGKILL
        running[writer] = begin(writer)
    for process in running:
        process.kill()
        process.join()
    acknowledged = [line for note in notes if note.is_file() for line in note.read_text("ascii").split("\n")[:-1]]
    store = LabelStore(url)
    stored = Counter(label.key for label in store.read())
    store.close()
    assert len(acknowledged) > KILLS, "there was something to lose"
    assert [key for key in acknowledged if stored[key] != 1] == []
    assert max(stored.values()) == 1
    assert len(stored) <= len(acknowledged) + KILLS + WRITERS, "at most what was under way at a kill is there beside"


def test_stores_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, it is only text " * 50, "utf-8")
    for wrong, words in (
        (f"sqlite:///{tmp_path}/text.db", "file is not a database"),
        (f"sqlite:///{tmp_path}/no/folder.db", "unable to open"),
        ("postgresql+psycopg2://nobody:secret@127.0.0.1:1/none", "does not work"),
    ):
        with pytest.raises(LabelStoreError, match=words) as caught:
            LabelStore(wrong)
        assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="no database"):
        LabelStore("labels.db")


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stancewire", "labels", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_labels_in_and_out_by_command(tmp_path: Path) -> None:
    place = ("--database", f"sqlite:///{tmp_path}/labels.db")
    first, second = tmp_path / "first.csv", tmp_path / "second.jsonl"
    first.write_text("text,label\nWe met.,neutral\nTalks go on.,pro_dialogue\nSanctions stay.,pro_pressure\n")
    second.write_text('{"text": "We met.", "label": "neutral"}\n{"text": "Talks go on.", "label": "neutral"}\n')
    assert "3 labels read, 3 of them new" in command("import", first, "--annotator", "Ann", *place).stdout
    assert "3 labels read, 0 of them new" in command("import", first, "--annotator", "Ann", *place).stdout
    assert "2 of them new" in command("import", second, "--annotator", "Bo", *place).stdout
    out = tmp_path / "out.jsonl"
    assert command("export", out, *place).returncode == 0
    assert (
        "5 labels read, 5 of them new"
        in command("import", out, "--annotator", "x", "--database", f"sqlite:///{tmp_path}/copy.db").stdout
    )
    assert "Ann: 3 (neutral 1, pro_dialogue 1, pro_pressure 1)" in command("stats", *place).stdout
    said = command("agreement", *place).stdout
    assert "Ann and Bo: two annotators gave 50.0% of 2 rows the same label" in said
    assert "Krippendorff's alpha: 0.000" in said
    assert "Ann: pro_dialogue, Bo: neutral  Talks go on." in said
    first.write_text("text,label\nWe met.,hawkish\n")
    wrong = command("import", first, "--annotator", "Ann", *place)
    assert (wrong.returncode, "first.csv:2: label is not one of" in wrong.stderr) == (2, True)
    assert "5 labels ever given" in command("stats", *place).stdout


def test_writers_in_opposite_orders_do_not_fail_each_other(url: str) -> None:
    rounds = 30
    stores = [LabelStore(url) for _ in range(2)]
    start = threading.Barrier(2)

    def write(store: LabelStore, order: int) -> int:
        new = 0
        for round_ in range(rounds):
            labels = [Label(f"Talk {round_}-{n}.", "neutral", "ann", key=f"{round_}-{n}") for n in range(20)][::order]
            start.wait(60)
            new += sum(store.add(labels))
            store.remember([Seen(label.sentence, 1, "neutral", 0.4, "m") for label in labels])
        return new

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(write, stores, (1, -1)))
    assert sum(found) == stores[0].count() == rounds * 20
    assert {each.times for each in stores[0].unsure("bob", 1000)} == {2}
