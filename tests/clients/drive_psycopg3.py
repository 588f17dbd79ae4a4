"""psycopg 3: the extended protocol, with parameters in text and binary."""

import asyncio
import datetime
import decimal
import threading
import uuid

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from checks import VALUES, check, run


def connect(**options):
    return psycopg.connect("", **options)


def rows(statement, params=None, **options):
    with connect() as connection:
        cursor = connection.execute(statement, params, **options)
        return [[column.name for column in cursor.description], [column.type_code for column in cursor.description],
                cursor.fetchall()]


for subject, values in VALUES.items():
    check(f"types: {subject}")(lambda values=values: rows(f"SELECT {values}"))
    check(f"types in binary: {subject}")(lambda values=values: rows(f"SELECT {values}", binary=True))


@check("connect")
def _():
    with connect() as connection:
        return [connection.info.server_version // 10000 >= 15, connection.info.encoding, str(connection.info.timezone),
                connection.info.status.name, connection.info.transaction_status.name]


@check("select")
def _():
    return rows("SELECT * FROM orders ORDER BY id")


@check("simple protocol")
def _():
    with connect() as connection:
        cursor = psycopg.ClientCursor(connection)
        cursor.execute("SELECT %s, %s, %s", (1, "x", [1, 2]))
        first = cursor.fetchall()
        cursor.execute("SELECT 1; SELECT 2, 3")
        second = cursor.fetchall()
        cursor.nextset()
        return [first, second, cursor.fetchall()]


PARAMETERS = ("SELECT id FROM orders WHERE id = ANY(%s) AND customer = %s AND amount > %s AND ts > %s LIMIT %s",
              ([1, 2, 3], "ann", decimal.Decimal("51.5"), datetime.datetime(2025, 1, 1), 5))


@check("parameters")
def _():
    return rows(*PARAMETERS)


@check("parameters in binary")
def _():
    return rows(PARAMETERS[0].replace("%s", "%b"), PARAMETERS[1], binary=True)


@check("parameters of all types")
def _():
    params = (1, 2**40, 1.5, decimal.Decimal("1.25"), "x", b"\x00\xff", True, datetime.date(2024, 2, 29),
              datetime.time(1, 2, 3), datetime.datetime(2024, 2, 29, 1, 2, 3),
              datetime.datetime(2024, 2, 29, 1, 2, 3, tzinfo=datetime.timezone.utc), datetime.timedelta(days=1, hours=2),
              uuid.UUID(int=7), Jsonb({"a": [1]}), [1, None], ["a", "b,c"], [uuid.UUID(int=7)])
    places = ", ".join(["%s"] * len(params))
    binary = ", ".join(["%b"] * len(params))
    return [rows(f"SELECT {places}", params), rows(f"SELECT {binary}", params, binary=True)]


@check("parameters without a type")
def _():
    return [rows("SELECT %s::int + 1, coalesce(%s, 'none'), %s::text IS NULL", (None, None, None)),
            rows("SELECT id FROM orders WHERE customer LIKE %s AND id IN (%s, %s) ORDER BY id OFFSET %s", ("a%", 1, 2, 1))]


@check("prepared")
def _():
    with connect() as connection:
        seen = []
        for number in range(1, 8):
            cursor = connection.execute("SELECT customer FROM orders WHERE id = %s", (number,), prepare=True)
            seen.append(cursor.fetchall())
        connection.execute("DEALLOCATE ALL")
        names = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchall()
        return [seen, names]


@check("server-side cursor")
def _():
    with connect() as connection, connection.cursor("server") as cursor:
        cursor.itersize = 7
        cursor.execute("SELECT g FROM generate_series(1, %s) AS g", (50,))
        return [cursor.fetchmany(5), sum(row[0] for row in cursor), [column.name for column in cursor.description]]


@check("server-side cursor, binary")
def _():
    with connect() as connection, connection.cursor("server", binary=True) as cursor:
        cursor.execute("SELECT id, amount, tags FROM orders ORDER BY id")
        return cursor.fetchall()


@check("server-side cursor, scrolled and held")
def _():
    with connect() as connection:
        cursor = connection.cursor("server", scrollable=True, withhold=True)
        cursor.execute("SELECT id FROM orders ORDER BY id")
        connection.commit()
        seen = [cursor.fetchall()]
        cursor.scroll(0, mode="absolute")
        seen.append(cursor.fetchone())
        cursor.close()
        return seen


@check("COPY TO")
def _():
    with connect() as connection, connection.cursor() as cursor:
        with cursor.copy("COPY (SELECT id, customer, amount, ts FROM orders ORDER BY id) TO STDOUT") as copy:
            return list(copy.rows())


@check("COPY TO, binary")
def _():
    with connect() as connection, connection.cursor() as cursor:
        with cursor.copy("COPY (SELECT id, customer, amount, tz FROM orders ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4", "text", "numeric", "timestamptz"])
            return list(copy.rows())


@check("COPY FROM")
def _():
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE copied (a INT PRIMARY KEY, b TEXT, c NUMERIC(8, 2))")
        connection.commit()
        try:
            with cursor.copy("COPY copied (a, b, c) FROM STDIN") as copy:
                copy.write_row((1, "x\ty", decimal.Decimal("1.5")))
                copy.write_row((2, None, None))
            with cursor.copy("COPY copied FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["int4", "text", "numeric"])
                copy.write_row((3, "z", decimal.Decimal("2.25")))
            return [cursor.rowcount, cursor.execute("SELECT * FROM copied ORDER BY a").fetchall()]
        finally:
            connection.rollback()
            cursor.execute("DROP TABLE copied")
            connection.commit()


@check("pipeline mode")
def _():
    with connect() as connection, connection.pipeline() as pipeline:
        cursors = [connection.execute("SELECT %s::int + 1", (number,)) for number in range(5)]
        pipeline.sync()
        seen = [cursor.fetchone() for cursor in cursors]
        return seen


@check("pipeline mode, an error")
def _():
    with connect(autocommit=True) as connection:
        seen = []
        try:
            with connection.pipeline():
                connection.execute("SELECT 1")
                connection.execute("SELECT * FROM nothing")
                connection.execute("SELECT 2")
        except psycopg.Error as error:
            seen.append(error.sqlstate)
        seen.append(connection.execute("SELECT 3").fetchall())
        return seen


@check("executemany")
def _():
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE many (a INT PRIMARY KEY, b TEXT)")
        connection.commit()
        try:
            cursor.executemany("INSERT INTO many VALUES (%s, %s) RETURNING a", [(1, "x"), (2, "y"), (3, None)], returning=True)
            seen = [cursor.rowcount]
            while True:
                seen.append(cursor.fetchall())
                if not cursor.nextset():
                    break
            return [seen, cursor.execute("SELECT * FROM many ORDER BY a").fetchall()]
        finally:
            connection.rollback()
            cursor.execute("DROP TABLE many")
            connection.commit()


@check("nested transactions")
def _():
    with connect() as connection:
        seen = []
        try:
            with connection.transaction():
                connection.execute("INSERT INTO lines VALUES (8, 1, 'x', 1)")
                try:
                    with connection.transaction():
                        connection.execute("INSERT INTO lines VALUES (8, 2, 'y', 1)")
                        raise KeyError
                except KeyError:
                    pass
                seen.append(connection.execute("SELECT line FROM lines WHERE order_id = 8").fetchall())
                raise psycopg.Rollback
        except psycopg.Rollback:
            pass
        seen.append(connection.execute("SELECT count(*) FROM lines WHERE order_id = 8").fetchall())
        return seen


@check("errors")
def _():
    seen = []
    for statement in ["SELECT * FROM nothing", "SELECT nothing FROM orders", "SELECT 1/%s", "SELECT %s::int",
                      "SELECT nothing(%s)", "INSERT INTO orders VALUES (1, 'twice')"]:
        with connect() as connection:
            try:
                connection.execute(statement, (0,) if "/" in statement else ("x",) if "%s" in statement else None).fetchall()
                seen.append("no error")
            except psycopg.Error as error:
                seen.append([error.sqlstate, type(error).__name__, error.diag.severity])
            connection.rollback()
    return seen


@check("cancel")
def _():
    with connect() as connection:
        threading.Timer(0.3, connection.cancel).start()
        try:
            connection.execute("SELECT pg_sleep(20)")
            return "ran to its end"
        except psycopg.Error as error:
            return error.sqlstate


@check("isolation and read only")
def _():
    with connect() as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        return connection.execute("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')").fetchall()


@check("type information")
def _():
    with connect() as connection:
        info = psycopg.types.TypeInfo.fetch(connection, "numeric")
        gone = psycopg.types.TypeInfo.fetch(connection, "nothing")
        return [info.oid, info.array_oid, info.name, gone is None]


@check("composite types of tables")
def _():
    with connect() as connection:
        info = psycopg.types.composite.CompositeInfo.fetch(connection, "lines")
        return [info.field_names, info.field_types]


@check("dictionary rows, identifiers")
def _():
    with connect(row_factory=dict_row) as connection:
        return connection.execute(sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
            sql.SQL(", ").join(map(sql.Identifier, ["order_id", "item"])), sql.Identifier("public", "lines"),
            sql.Identifier("order_id"))).fetchall()


@check("stream")
def _():
    with connect() as connection, connection.cursor() as cursor:
        return sum(row[0] for row in cursor.stream("SELECT g FROM generate_series(1, 1000) AS g"))


@check("asynchronous")
def _():
    async def body():
        async with await psycopg.AsyncConnection.connect("") as connection:
            cursor = await connection.execute("SELECT %s::text", ("x",))
            return await cursor.fetchall()

    return asyncio.run(body())


@check("notifications")
def _():
    with connect(autocommit=True) as connection:
        seen = []
        connection.execute("LISTEN news")
        connection.execute("SELECT pg_notify('news', 'x')")
        for note in connection.notifies(timeout=5, stop_after=1):
            seen.append([note.channel, note.payload])
        return seen


run(f"psycopg {psycopg.__version__} ({psycopg.pq.__impl__})".replace(" (binary)", ""))
