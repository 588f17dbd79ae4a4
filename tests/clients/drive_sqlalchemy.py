"""SQLAlchemy 2: the dialect over psycopg 2, its reflection, its ORM."""

import datetime
import decimal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from checks import check, run

ENGINES = {name: sa.create_engine(f"postgresql+{name}://", poolclass=sa.NullPool) for name in ["psycopg2", "psycopg"]}
ENGINE = ENGINES["psycopg2"]


def inspector():
    return sa.inspect(ENGINE)


def types(columns):
    kept = ["name", "nullable", "default", "comment", "autoincrement"]
    return [[repr(column["type"])] + [column.get(key) for key in kept] for column in columns]


@check("connect")
def _():
    with ENGINE.connect() as connection:
        return [connection.dialect.server_version_info[0] >= 15, connection.dialect.default_schema_name,
                connection.default_isolation_level, connection.scalar(sa.text("SELECT 1"))]


@check("connect with psycopg 3")
def _():
    with ENGINES["psycopg"].connect() as connection:
        return connection.execute(sa.text("SELECT id, amount, tags FROM orders WHERE id = :id"), {"id": 1}).fetchall()


@check("schemas")
def _():
    return sorted(name for name in inspector().get_schema_names() if not name.startswith("pg_"))


@check("tables and views")
def _():
    return [sorted(inspector().get_table_names()), sorted(inspector().get_view_names()),
            sorted(inspector().get_materialized_view_names()), sorted(inspector().get_temp_table_names()),
            inspector().has_table("orders"), inspector().has_table("nothing")]


@check("columns of a table")
def _():
    return [types(inspector().get_columns("orders")), types(inspector().get_columns("lines", schema="public"))]


@check("columns of a view")
def _():
    return types(inspector().get_columns("big_orders"))


@check("columns of a materialized view")
def _():
    return [column["name"] for column in inspector().get_columns("totals")]


@check("definition of a view")
def _():
    return "orders" in inspector().get_view_definition("big_orders")


@check("primary keys")
def _():
    return [inspector().get_pk_constraint("orders"), inspector().get_pk_constraint("lines")]


@check("foreign keys and other constraints")
def _():
    return [inspector().get_foreign_keys("orders"), inspector().get_unique_constraints("orders"),
            inspector().get_check_constraints("orders"), inspector().get_table_options("orders")]


@check("indexes")
def _():
    return [inspector().get_indexes("orders"), inspector().get_indexes("lines")]


@check("comments")
def _():
    return [inspector().get_table_comment("orders"), inspector().get_table_comment("lines")]


@check("sequences, enums, domains")
def _():
    return [inspector().get_sequence_names(), inspector().get_enums(), inspector().get_domains()]


@check("reflection of all tables")
def _():
    metadata = sa.MetaData()
    metadata.reflect(ENGINE, views=True)
    return {name: [[column.name, str(column.type), column.primary_key, column.nullable] for column in table.columns]
            for name, table in sorted(metadata.tables.items()) if name in ("orders", "lines", "big_orders")}


@check("reflection of many tables at once")
def _():
    found = inspector().get_multi_columns(filter_names=["orders", "lines"])
    keys = inspector().get_multi_pk_constraint(filter_names=["orders", "lines"])
    return [sorted([key[1], len(columns)] for key, columns in found.items()),
            sorted([key[1], value["constrained_columns"]] for key, value in keys.items())]


@check("a query from reflected tables")
def _():
    orders = sa.Table("orders", sa.MetaData(), autoload_with=ENGINE)
    lines = sa.Table("lines", sa.MetaData(), autoload_with=ENGINE)
    query = (sa.select(orders.c.customer, sa.func.count().label("n"), sa.func.sum(lines.c.price))
             .join(lines, lines.c.order_id == orders.c.id).where(orders.c.ts > datetime.datetime(2025, 1, 1))
             .group_by(orders.c.customer).order_by(sa.desc("n")).limit(10))
    with ENGINE.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


@check("create, insert, read, drop")
def _():
    table = sa.Table("made", sa.MetaData(), sa.Column("a", sa.Integer, primary_key=True, autoincrement=False),
                     sa.Column("b", sa.String(20), nullable=False), sa.Column("c", sa.Numeric(8, 2)),
                     sa.Column("d", sa.DateTime(timezone=True)), sa.Column("e", postgresql.JSONB),
                     sa.Column("f", postgresql.ARRAY(sa.Integer)), sa.Column("g", sa.Boolean), sa.Column("h", sa.Uuid))
    table.create(ENGINE)
    try:
        with ENGINE.begin() as connection:
            result = connection.execute(table.insert().returning(table.c.a), [
                {"a": 1, "b": "x", "c": decimal.Decimal("1.5"), "e": {"k": [1]}, "f": [1, 2], "g": True},
                {"a": 2, "b": "y", "c": None, "e": None, "f": None, "g": None}])
            seen = [sorted(tuple(row) for row in result)]
            seen.append(connection.execute(table.update().where(table.c.a == 2).values(b="z")).rowcount)
        with ENGINE.connect() as connection:
            seen.append([tuple(row) for row in connection.execute(table.select().order_by(table.c.a))])
        seen.append(sa.inspect(ENGINE).has_table("made"))
        return seen
    finally:
        table.drop(ENGINE)


@check("on conflict")
def _():
    table = sa.Table("upserted", sa.MetaData(), sa.Column("a", sa.Integer, primary_key=True, autoincrement=False),
                     sa.Column("b", sa.Text))
    table.create(ENGINE)
    try:
        with ENGINE.begin() as connection:
            for value in ["x", "y"]:
                insert = postgresql.insert(table).values(a=1, b=value)
                connection.execute(insert.on_conflict_do_update(index_elements=["a"], set_={"b": insert.excluded.b}))
            return [tuple(row) for row in connection.execute(table.select())]
    finally:
        table.drop(ENGINE)


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "people"
    id: Mapped[str] = mapped_column(primary_key=True)
    age: Mapped[int | None]


@check("ORM")
def _():
    Base.metadata.create_all(ENGINE)
    try:
        with Session(ENGINE) as session:
            session.add_all([Person(id="ann", age=30), Person(id="bob", age=None)])
            session.commit()
            ann = session.get(Person, "ann")
            ann.age += 1
            session.commit()
            with session.begin_nested():
                session.delete(session.get(Person, "bob"))
            session.rollback()
            return [(person.id, person.age) for person in session.scalars(sa.select(Person).order_by(Person.id))]
    finally:
        Base.metadata.drop_all(ENGINE)


@check("errors")
def _():
    seen = []
    for sql in ["SELECT * FROM nothing", "INSERT INTO orders (id, customer) VALUES (1, 'twice')", "SELECT 1/0"]:
        try:
            with ENGINE.connect() as connection:
                connection.execute(sa.text(sql))
            seen.append("no error")
        except sa.exc.SQLAlchemyError as error:
            seen.append(type(error).__name__)
    return seen


@check("server-side rows")
def _():
    with ENGINE.connect() as connection:
        result = connection.execution_options(stream_results=True, max_row_buffer=10).execute(
            sa.text("SELECT g FROM generate_series(1, 100) AS g"))
        return sum(row[0] for row in result)


run(f"SQLAlchemy {sa.__version__}")
