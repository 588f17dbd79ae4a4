"""pg8000: pure Python, the extended protocol in text."""

import datetime
import decimal
import os
import uuid

import pg8000
import pg8000.dbapi
import pg8000.native

from checks import VALUES, check, run

ADDRESS = {"user": os.environ["PGUSER"], "host": os.environ["PGHOST"], "port": int(os.environ["PGPORT"]),
           "database": os.environ["PGDATABASE"]}


def native(sql, **params):
    connection = pg8000.native.Connection(**ADDRESS)
    try:
        rows = connection.run(sql, **params)
        return [[column["name"] for column in connection.columns or []],
                [column["type_oid"] for column in connection.columns or []], rows, connection.row_count]
    finally:
        connection.close()


for subject, values in VALUES.items():
    check(f"types: {subject}")(lambda values=values: native(f"SELECT {values}"))


@check("select")
def _():
    return native("SELECT * FROM orders ORDER BY id")


@check("parameters")
def _():
    return native("SELECT id FROM orders WHERE id = ANY(:ids) AND customer = :customer AND amount > :amount AND ts > :ts LIMIT :n",
                  ids=[1, 2, 3], customer="ann", amount=decimal.Decimal("51.5"), ts=datetime.datetime(2025, 1, 1), n=5)


@check("parameters of all types")
def _():
    return native("SELECT :a, :b, :c, :d, :e, :f, :g, :h, :i, :j, :k", a=1, b=1.5, c=decimal.Decimal("1.25"), d="x", e=b"\x00\xff",
                  f=True, g=datetime.date(2024, 2, 29), h=datetime.datetime(2024, 2, 29, 1, 2, 3), i=uuid.UUID(int=7), j=[1, None],
                  k=None)


@check("DB-API")
def _():
    connection = pg8000.dbapi.connect(**ADDRESS)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE api (a INT PRIMARY KEY, b TEXT)")
    cursor.executemany("INSERT INTO api VALUES (%s, %s)", [(1, "x"), (2, None)])
    seen = [cursor.rowcount]
    connection.commit()
    cursor.execute("UPDATE api SET b = %s WHERE a = %s", ("y", 2))
    seen.append(cursor.rowcount)
    cursor.execute("SELECT * FROM api ORDER BY a")
    seen.append(cursor.fetchall())
    connection.rollback()
    cursor.execute("SELECT * FROM api ORDER BY a")
    seen.append(cursor.fetchall())
    cursor.execute("DROP TABLE api")
    connection.commit()
    return seen


@check("prepared")
def _():
    connection = pg8000.native.Connection(**ADDRESS)
    statement = connection.prepare("SELECT customer FROM orders WHERE id = :id")
    seen = [statement.run(id=number) for number in range(1, 5)]
    statement.close()
    connection.close()
    return seen


@check("COPY")
def _():
    import io
    connection = pg8000.native.Connection(**ADDRESS)
    connection.run("CREATE TABLE copied (a INT PRIMARY KEY, b TEXT)")
    try:
        connection.run("COPY copied FROM STDIN", stream=io.BytesIO(b"1\tx\n2\t\\N\n"))
        out = io.BytesIO()
        connection.run("COPY (SELECT * FROM copied ORDER BY a) TO STDOUT WITH (FORMAT csv)", stream=out)
        return [out.getvalue(), connection.run("SELECT * FROM copied ORDER BY a")]
    finally:
        connection.run("DROP TABLE copied")


@check("errors")
def _():
    seen = []
    for sql in ["SELECT * FROM nothing", "SELECT nothing FROM orders", "SELECT 1/0", "SELECT 'x'::int",
                "INSERT INTO orders VALUES (1, 'twice')"]:
        try:
            native(sql)
            seen.append("no error")
        except pg8000.native.DatabaseError as error:
            seen.append([error.args[0]["C"], error.args[0]["S"]])
    return seen


@check("savepoints")
def _():
    connection = pg8000.native.Connection(**ADDRESS)
    for sql in ["START TRANSACTION", "INSERT INTO lines VALUES (6, 1, 'x', 1)", "SAVEPOINT s", "INSERT INTO lines VALUES (6, 2, 'x', 1)",
                "ROLLBACK TO SAVEPOINT s", "RELEASE SAVEPOINT s"]:
        connection.run(sql)
    seen = connection.run("SELECT line FROM lines WHERE order_id = 6")
    connection.run("ROLLBACK")
    return [seen, connection.run("SELECT count(*) FROM lines WHERE order_id = 6")]


@check("notices and notifications")
def _():
    connection = pg8000.native.Connection(**ADDRESS)
    connection.run("LISTEN news")
    connection.run("NOTIFY news, 'x'")
    connection.run("SELECT 1")
    return [[channel, payload] for _, channel, payload in connection.notifications]


run(f"pg8000 {pg8000.__version__}")
