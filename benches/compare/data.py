"""Files of Nexmark events, the same for every system: dumped once out of the built-in generator.

    nexmark-1000000/csv/bid/{0,1}.csv                 two files, so that two readers have one each
    nexmark-1000000/parquet/bid/{0,1}-….parquet       the same rows

The two halves have every other block of events each, so that both run through the whole of event time, as two splits of a
topic would. A system that reads them side by side sees time going on in both.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

from harness.machine import cache, die, run, say

BLOCK = 10_000
# Event time of neighbours may differ by as much without being late anywhere.
LATENESS = 4.0

TABLES = {
    "person": ["id", "name", "email_address", "credit_card", "city", "state", "date_time", "extra"],
    "auction": ["id", "item_name", "description", "initial_bid", "reserve", "date_time", "expires", "seller",
                "category", "extra"],
    "bid": ["auction", "bidder", "price", "channel", "url", "date_time", "extra"],
}
TYPES = {
    **dict.fromkeys(["id", "auction", "bidder", "price", "initial_bid", "reserve", "seller", "category"], "BIGINT"),
    **dict.fromkeys(["date_time", "expires"], "TIMESTAMP"),
}


def declarations(table):
    return ", ".join(f"{column} {TYPES.get(column, 'TEXT')}" for column in TABLES[table])


def prepare(tidemill, n_events):
    """The directory of so many events, made if it is not there."""
    directory = cache() / f"nexmark-{n_events}"
    if directory.exists():
        return directory
    say(f"writing {n_events:,} events to {directory}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all.
    partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".partial-"))
    try:
        for table in TABLES:
            dump(tidemill, table, n_events, partial)
        side_input = partial / "csv" / "side_input"
        side_input.mkdir()
        (side_input / "0.csv").write_text("".join(f"{i},side {i}\n" for i in range(10_000)))
        os.rename(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def dump(tidemill, table, n_events, directory):
    columns = TABLES[table]
    # Flink reads times with a space between date and time.
    as_text = ", ".join(f"CAST({c} AS TEXT) AS {c}" if TYPES.get(c) == "TIMESTAMP" else c for c in columns)
    statements = [f"CREATE SOURCE {table} ({declarations(table)}) INCLUDE offset AS event_number "
                  f"WITH (connector = 'generator', table = '{table}', events = '{n_events}')"]
    work = Path(tempfile.mkdtemp(dir=directory))
    for half in range(2):
        where = f"FROM {table} WHERE event_number / {BLOCK} % 2 = {half}"
        for kind, selected, encode in [("csv", as_text, "CSV (header = 'false')"),
                                       ("parquet", ", ".join(columns), "PARQUET")]:
            statements.append(
                f"CREATE SINK {kind}{half} AS SELECT {selected} {where} WITH (connector = 'file', "
                f"path = '{work}/{kind}{half}', roll_size = '4GB', roll_interval = '1 hour') "
                f"FORMAT PLAIN ENCODE {encode}")
    script = work / "dump.sql"
    script.write_text(";\n".join(statements) + ";\n")
    # One lane: rows stay in the order of their events.
    run([tidemill, "run", "--quiet", script], env={**os.environ, "TIDEMILL_LANES": "1"})
    for kind in ["csv", "parquet"]:
        folder = directory / kind / table
        folder.mkdir(parents=True)
        for half in range(2):
            parts = sorted(path for path in (work / f"{kind}{half}").iterdir() if path.name[0] not in "._")
            if not parts:
                die(f"there are no {table}s in half of {n_events} events; take 20,000 or more")
            if kind == "parquet":
                for idx, part in enumerate(parts):
                    os.rename(part, folder / f"{half}-{idx}.parquet")
            else:
                with (folder / f"{half}.csv").open("wb") as whole:
                    for part in parts:
                        with part.open("rb") as piece:
                            shutil.copyfileobj(piece, whole, 1 << 20)
                check_order(folder / f"{half}.csv", columns.index("date_time"))
    shutil.rmtree(work)


def check_order(path, column):
    """Nothing may be so late that a watermark drops it."""
    newest = 0.0
    # Every so often: a reader's whole pass in Python would take longer than everything else.
    with path.open() as rows:
        for idx, row in enumerate(rows):
            if idx % 101:
                continue
            at = parse_time(row.split(",")[column])
            if at < newest - LATENESS:
                die(f"{path}: row {idx} is {newest - at:.1f} s late")
            newest = max(newest, at)


def parse_time(text):
    """
    >>> parse_time("2015-07-15 00:00:01.5") - parse_time("2015-07-15 00:00:00")
    1.5
    """
    whole, _, fraction = text.partition(".")
    return time.mktime(time.strptime(whole, "%Y-%m-%d %H:%M:%S")) + float(f"0.{fraction or 0}")


def n_rows(directory, table):
    with_lines = (directory / "csv" / table).iterdir()
    return sum(path.read_bytes().count(b"\n") for path in with_lines)
