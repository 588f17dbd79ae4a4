"""psycopg 2: libpq, the simple protocol, parameters put into the text."""

import datetime
import decimal
import io
import threading
import uuid

import psycopg2
import psycopg2.errors
import psycopg2.extras

from checks import VALUES, check, run


def connect(**options):
    # Everything else libpq takes from the environment.
    connection = psycopg2.connect("", **options)
    return connection


def rows(sql, params=None, **options):
    with connect(**options) as connection, connection.cursor() as cursor:
        cursor.execute(sql, params)
        return [[column.name for column in cursor.description], [column.type_code for column in cursor.description],
                cursor.fetchall()]


for subject, values in VALUES.items():
    check(f"types: {subject}")(lambda values=values: rows(f"SELECT {values}"))


@check("connect")
def _():
    connection = connect()
    return [connection.server_version // 10000 >= 15, connection.encoding, connection.get_parameter_status("TimeZone"),
            connection.get_parameter_status("standard_conforming_strings"), connection.status]


@check("select")
def _():
    return rows("SELECT * FROM orders ORDER BY id")


@check("parameters")
def _():
    return rows(
        "SELECT id FROM orders WHERE id = ANY(%s) AND customer IN %s AND amount > %s AND ts > %s LIMIT %s",
        ([1, 2, 3], ("ann", "bob"), decimal.Decimal("51.5"), datetime.datetime(2025, 1, 1), 5))


@check("adapted values")
def _():
    psycopg2.extras.register_uuid()
    return rows("SELECT %s, %s, %s, %s, %s, %s, %s",
                (uuid.UUID(int=7), psycopg2.Binary(b"\x00\xff"), psycopg2.extras.Json({"a": 1}), datetime.date(2024, 2, 29),
                 datetime.timedelta(hours=3), [datetime.date(2024, 2, 29)], None))


@check("named cursor")
def _():
    with connect() as connection, connection.cursor("named") as cursor:
        cursor.itersize = 7
        cursor.execute("SELECT g FROM generate_series(1, 50) AS g")
        some = cursor.fetchmany(5)
        return [some, sum(row[0] for row in cursor)]


@check("named cursor, with hold and scroll")
def _():
    connection = connect()
    cursor = connection.cursor("held", scrollable=True, withhold=True)
    cursor.execute("SELECT id FROM orders ORDER BY id")
    connection.commit()
    first = cursor.fetchall()
    cursor.scroll(0, mode="absolute")
    return [first, cursor.fetchone()]


@check("COPY TO")
def _():
    with connect() as connection, connection.cursor() as cursor:
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT * FROM orders ORDER BY id) TO STDOUT (FORMAT csv, HEADER)", out)
        return out.getvalue()


@check("COPY FROM")
def _():
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE copied (a INT PRIMARY KEY, b TEXT)")
    try:
        with connect() as connection, connection.cursor() as cursor:
            cursor.copy_from(io.StringIO("1\tx\n2\t\\N\n"), "copied")
            cursor.copy_expert("COPY copied (a, b) FROM STDIN (FORMAT csv)", io.StringIO('3,"y,z"\n'))
            n = cursor.rowcount
            cursor.execute("SELECT * FROM copied ORDER BY a")
            return [n, cursor.fetchall()]
    finally:
        with connect() as connection, connection.cursor() as cursor:
            cursor.execute("DROP TABLE copied")


@check("changes and their counts")
def _():
    with connect() as connection, connection.cursor() as cursor:
        seen = []
        for sql in ["CREATE TABLE changed (a INT PRIMARY KEY, b TEXT)", "INSERT INTO changed VALUES (1, 'x'), (2, 'y')",
                    "UPDATE changed SET b = 'z'", "DELETE FROM changed WHERE a = 1"]:
            cursor.execute(sql)
            seen.append([cursor.statusmessage, cursor.rowcount])
        cursor.execute("INSERT INTO changed VALUES (3, 'r') RETURNING a, b")
        seen.append(cursor.fetchall())
        psycopg2.extras.execute_values(cursor, "INSERT INTO changed VALUES %s", [(4, "p"), (5, "q")])
        seen.append(cursor.rowcount)
        cursor.execute("DROP TABLE changed")
        return seen


@check("transactions")
def _():
    connection = connect()
    seen = [connection.get_transaction_status()]
    cursor = connection.cursor()
    cursor.execute("INSERT INTO lines VALUES (9, 9, 'x', 1)")
    seen.append(connection.get_transaction_status())
    cursor.execute("SELECT count(*) FROM lines")
    seen.append(cursor.fetchone())
    connection.rollback()
    cursor.execute("SELECT count(*) FROM lines")
    seen.append(cursor.fetchone())
    return seen


@check("savepoints")
def _():
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("INSERT INTO lines VALUES (8, 1, 'x', 1)")
    cursor.execute("SAVEPOINT s")
    try:
        cursor.execute("SELECT 1/0")
    except psycopg2.errors.DivisionByZero:
        cursor.execute("ROLLBACK TO SAVEPOINT s")
    cursor.execute("SELECT count(*) FROM lines WHERE order_id = 8")
    seen = cursor.fetchall()
    connection.rollback()
    return seen


@check("isolation and read only")
def _():
    seen = []
    for options in [{"isolation_level": "SERIALIZABLE"}, {"isolation_level": "REPEATABLE READ", "readonly": True},
                    {"isolation_level": "READ COMMITTED", "deferrable": False}]:
        connection = connect()
        connection.set_session(**options)
        cursor = connection.cursor()
        cursor.execute("SHOW transaction_isolation")
        seen.append(cursor.fetchone())
        cursor.execute("SHOW transaction_read_only")
        seen.append(cursor.fetchone())
        connection.rollback()
    return seen


@check("errors")
def _():
    seen = []
    for sql in ["SELECT * FROM nothing", "SELECT nothing FROM orders", "SELEC 1", "SELECT 1/0", "SELECT 'x'::int",
                "SELECT nothing(1)", "CREATE TABLE orders (a INT)", "INSERT INTO orders VALUES (1, 'twice')",
                "INSERT INTO orders (id) VALUES (77)", "SELECT '2024-13-01'::date", "SELECT 99999::int2"]:
        connection = connect()
        try:
            connection.cursor().execute(sql)
            seen.append([sql, "no error"])
        except psycopg2.Error as error:
            seen.append([sql, error.pgcode, type(error).__name__, error.diag.severity])
        connection.close()
    return seen


@check("failed transaction")
def _():
    connection = connect()
    cursor = connection.cursor()
    seen = []
    for sql in ["SELECT 1/0", "SELECT 1", "ROLLBACK", "SELECT 2"]:
        try:
            cursor.execute(sql)
            seen.append("ok")
        except psycopg2.Error as error:
            seen.append(error.pgcode)
    return seen


@check("cancel")
def _():
    connection = connect()
    threading.Timer(0.3, connection.cancel).start()
    try:
        connection.cursor().execute("SELECT pg_sleep(20)")
        return "ran to its end"
    except psycopg2.Error as error:
        return error.pgcode


@check("statement_timeout")
def _():
    connection = connect(options="-c statement_timeout=200")
    try:
        connection.cursor().execute("SELECT pg_sleep(20)")
        return "ran to its end"
    except psycopg2.Error as error:
        return error.pgcode


@check("settings")
def _():
    connection = connect(application_name="checks", options="-c search_path=public -c TimeZone=Europe/Berlin")
    cursor = connection.cursor()
    seen = []
    for name in ["application_name", "search_path", "TimeZone", "DateStyle", "server_encoding", "client_encoding",
                 "integer_datetimes", "standard_conforming_strings"]:
        cursor.execute(f"SHOW {name}")
        seen.append(cursor.fetchone())
    cursor.execute("SELECT timestamptz '2024-07-01 12:00:00+00'::text, current_setting('TimeZone')")
    seen.append(cursor.fetchone())
    cursor.execute("SELECT set_config('application_name', 'other', false)")
    cursor.execute("SHOW application_name")
    seen.append(cursor.fetchone())
    return seen


@check("LISTEN and NOTIFY")
def _():
    connection = connect()
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("LISTEN news")
    cursor.execute("NOTIFY news, 'x'")
    connection.poll()
    seen = [[note.channel, note.payload] for note in connection.notifies]
    cursor.execute("UNLISTEN *")
    return seen


@check("two phase refused")
def _():
    connection = connect()
    try:
        connection.tpc_begin(connection.xid(0, "a", "b"))
        connection.tpc_prepare()
        connection.tpc_rollback()
        return "accepted"
    except psycopg2.Error as error:
        return error.pgcode


@check("dictionary rows, composite in a row")
def _():
    with connect() as connection, connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute("SELECT count(*), max(amount) AS most, 1, 'x' FROM orders")
        return [dict(row) for row in cursor.fetchall()]


run(f"psycopg2 {psycopg2.__version__.split()[0]}")
