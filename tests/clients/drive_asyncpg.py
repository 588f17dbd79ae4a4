"""asyncpg: everything prepared and in binary, with types looked up in the catalog."""

import asyncio
import datetime
import decimal
import os
import uuid

import asyncpg

from checks import VALUES, check, run


def on_connection(name, **options):
    """A check that gets a connection."""

    def register(body):
        async def connected():
            connection = await asyncpg.connect(**options)
            try:
                return await body(connection)
            finally:
                await connection.close(timeout=5)

        check(name)(lambda: asyncio.run(connected()))
        return body

    return register


def listed(records):
    return [[list(record.keys()), list(record.values())] for record in records]




for subject, values in VALUES.items():

    async def of_type(connection, values=values):
        # A name for each: asyncpg's records show one of those that are called the same.
        statement = await connection.prepare(f"SELECT {values}")
        record = (await statement.fetch())[0]
        return [[attribute.name, attribute.type.name, attribute.type.oid, record[idx]]
                for idx, attribute in enumerate(statement.get_attributes())]

    on_connection(f"types in binary: {subject}")(of_type)


@on_connection("connect")
async def _(connection):
    return [connection.get_server_version().major >= 15, connection.get_settings().server_encoding,
            connection.get_settings().TimeZone, connection.get_server_pid() > 0]


@on_connection("select")
async def _(connection):
    return listed(await connection.fetch("SELECT * FROM orders ORDER BY id"))


@on_connection("parameters")
async def _(connection):
    return listed(await connection.fetch(
        "SELECT id FROM orders WHERE id = ANY($1) AND customer = $2 AND amount > $3 AND ts > $4 LIMIT $5", [1, 2, 3], "ann",
        decimal.Decimal("51.5"), datetime.datetime(2025, 1, 1), 5))


@on_connection("parameters of all types")
async def _(connection):
    return listed(await connection.fetch(
        "SELECT $1::int2, $2::int4, $3::int8, $4::float8, $5::numeric, $6::text, $7::bytea, $8::bool, $9::date, $10::time, "
        "$11::timestamp, $12::timestamptz, $13::interval, $14::uuid, $15::jsonb, $16::int4[], $17::text[], $18::numeric[], $19::uuid[]",
        1, 2, 2**40, 1.5, decimal.Decimal("1.25"), "x", b"\x00\xff", True, datetime.date(2024, 2, 29), datetime.time(1, 2, 3),
        datetime.datetime(2024, 2, 29, 1, 2, 3), datetime.datetime(2024, 2, 29, 1, 2, 3, tzinfo=datetime.timezone.utc),
        datetime.timedelta(days=1, hours=2), uuid.UUID(int=7), '{"a": [1]}', [1, None], ["a", "b,c"],
        [decimal.Decimal("1.5")], [uuid.UUID(int=7)]))


@on_connection("types of parameters and columns")
async def _(connection):
    seen = []
    for sql in ["SELECT id + $1, customer || $2, amount * $3 FROM orders WHERE ts < $4 AND d = $5 AND tags = $6",
                "INSERT INTO orders (id, customer, amount, tz, tags) VALUES ($1, $2, $3, $4, $5)",
                "UPDATE orders SET amount = $1, d = $2 WHERE id = $3", "DELETE FROM orders WHERE id = ANY($1)",
                "SELECT * FROM totals WHERE customer = $1", "SELECT $1::int, $2", "SELECT * FROM orders LIMIT $1 OFFSET $2",
                "SELECT CASE WHEN $1 THEN 1 ELSE 2 END, coalesce($2, 1), $3 || 'x', extract(year FROM $4::date)",
                "SELECT count(*), sum(id), avg(id), max(customer), array_agg(id), now(), current_date FROM orders"]:
        statement = await connection.prepare(sql)
        seen.append([[parameter.name for parameter in statement.get_parameters()],
                     [[attribute.name, attribute.type.name] for attribute in statement.get_attributes()]])
    return seen


@on_connection("prepared")
async def _(connection):
    statement = await connection.prepare("SELECT customer FROM orders WHERE id = $1")
    return [await statement.fetchval(number) for number in range(1, 5)]


@on_connection("cursor")
async def _(connection):
    async with connection.transaction():
        seen = [row[0] async for row in connection.cursor("SELECT g FROM generate_series(1, 25) AS g", prefetch=7)]
        cursor = await connection.cursor("SELECT g FROM generate_series(1, $1) AS g", 20)
        seen.append(listed(await cursor.fetch(3)))
        seen.append(listed([await cursor.fetchrow()]))
        return seen


@on_connection("cursor, moved")
async def _(connection):
    async with connection.transaction():
        cursor = await connection.cursor("SELECT g FROM generate_series(1, 20) AS g")
        await cursor.forward(5)
        return listed([await cursor.fetchrow()])


@on_connection("executemany")
async def _(connection):
    await connection.execute("CREATE TABLE many (a INT PRIMARY KEY, b TEXT[], c NUMERIC(8, 2))")
    try:
        await connection.executemany("INSERT INTO many VALUES ($1, $2, $3)",
                                     [(1, ["x"], decimal.Decimal("1.5")), (2, None, None), (3, [], decimal.Decimal("0"))])
        return listed(await connection.fetch("SELECT * FROM many ORDER BY a"))
    finally:
        await connection.execute("DROP TABLE many")


@on_connection("COPY")
async def _(connection):
    await connection.execute("CREATE TABLE copied (a INT PRIMARY KEY, b TEXT, c TIMESTAMPTZ)")
    try:
        status = await connection.copy_records_to_table(
            "copied", records=[(1, "x", datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc)), (2, None, None)])
        out = []

        async def keep(data):
            out.append(data)

        await connection.copy_from_query("SELECT * FROM copied ORDER BY a", output=keep, format="csv")
        return [status, b"".join(out), listed(await connection.fetch("SELECT * FROM copied ORDER BY a"))]
    finally:
        await connection.execute("DROP TABLE copied")


@on_connection("status of commands")
async def _(connection):
    return [await connection.execute(sql) for sql in
            ["CREATE TABLE status (a INT PRIMARY KEY)", "INSERT INTO status VALUES (1), (2)", "UPDATE status SET a = a + 10",
             "DELETE FROM status WHERE a = 11", "SELECT * FROM status", "DROP TABLE status", "SET application_name = 'x'",
             "BEGIN", "COMMIT"]]


@on_connection("nested transactions")
async def _(connection):
    seen = []
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    await connection.execute("INSERT INTO lines VALUES (7, 1, 'x', 1)")
    try:
        async with connection.transaction():
            await connection.execute("INSERT INTO lines VALUES (7, 2, 'y', 1)")
            raise KeyError
    except KeyError:
        seen.append(listed(await connection.fetch("SELECT line FROM lines WHERE order_id = 7")))
    await transaction.rollback()
    seen.append(await connection.fetchval("SELECT count(*) FROM lines WHERE order_id = 7"))
    return seen


@check("pool, reset")
def _():
    async def body():
        async with asyncpg.create_pool(min_size=1, max_size=2) as pool:
            seen = []
            for _ in range(3):
                async with pool.acquire() as connection:
                    await connection.execute("SET application_name = 'changed'")
                    seen.append(await connection.fetchval("SELECT 1"))
            async with pool.acquire() as connection:
                seen.append(await connection.fetchval("SHOW application_name") != "changed")
            return seen

    return asyncio.run(body())


@on_connection("type introspection")
async def _(connection):
    # A row of a table is of a composite type, which asyncpg has to look up.
    record = (await connection.fetch("SELECT ARRAY['pg_type']::name[] AS names, '{1,2}'::oid[] AS oids, 'r'::\"char\" AS c"))[0]
    await connection.reload_schema_state()
    return listed([record])


@on_connection("composite of a table")
async def _(connection):
    record = (await connection.fetch("SELECT lines FROM lines ORDER BY order_id, line LIMIT 1"))[0]
    return list(record["lines"].items())


@on_connection("composite, anonymous")
async def _(connection):
    record = (await connection.fetch("SELECT ROW(1, 'x', NULL::int) AS r"))[0]
    return list(record["r"])


@on_connection("custom codec")
async def _(connection):
    import json
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    return await connection.fetchval("SELECT $1::jsonb", {"a": [1, None]})


@on_connection("errors")
async def _(connection):
    seen = []
    for sql, args in [("SELECT * FROM nothing", ()), ("SELECT nothing FROM orders", ()), ("SELECT 1/$1", (0,)),
                      ("SELECT $1::text::int", ("x",)), ("INSERT INTO orders VALUES (1, 'twice')", ()), ("SELECT nothing($1::int)", (1,))]:
        try:
            await connection.fetch(sql, *args)
            seen.append("no error")
        except asyncpg.PostgresError as error:
            seen.append([error.sqlstate, type(error).__name__])
    return seen


@on_connection("cancel by timeout")
async def _(connection):
    try:
        await connection.fetch("SELECT pg_sleep(20)", timeout=0.3)
        return "ran to its end"
    except asyncio.TimeoutError:
        return await connection.fetchval("SELECT 'cancelled'")


@on_connection("notifications")
async def _(connection):
    arrived = asyncio.Event()
    seen = []

    def note(_connection, _pid, channel, payload):
        seen.append([channel, payload])
        arrived.set()

    await connection.add_listener("news", note)
    await connection.execute("SELECT pg_notify('news', 'x')")
    await asyncio.wait_for(arrived.wait(), 5)
    return seen


@on_connection("startup settings", server_settings={"application_name": "checks", "search_path": "public", "jit": "off"})
async def _(connection):
    return [await connection.fetchval("SHOW application_name"), await connection.fetchval("SHOW search_path"),
            await connection.fetchval("SELECT current_setting('jit')")]


run(f"asyncpg {asyncpg.__version__}")
