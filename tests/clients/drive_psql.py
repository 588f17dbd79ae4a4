"""psql: its backslash commands, each in a process of its own."""

import os
import re
import subprocess
import tempfile

from checks import check, run


def psql(*commands, stdin=None, seconds=60):
    """Output and errors of commands; fails as soon as one does."""
    args = ["psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1"]
    for command in commands:
        args += ["-c", command]
    done = subprocess.run(args, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=seconds, env={**os.environ, "PAGER": ""}, check=False)
    # A backslash command that fails does not always change the exit code.
    if done.returncode or "ERROR:" in done.stderr:
        raise RuntimeError(done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout


def columns(output):
    """The titles of a listing's columns."""
    lines = output.splitlines()
    return [title.strip() for title in lines[1].split("|")] if len(lines) > 1 else lines


# Whose whole output is PostgreSQL's.
SAME = [r"\d orders", r"\d lines", r"\d big_orders", r"\dv", r"\dm", r"\di", r"\ds", r"\dx pg_nothing", r"\d orders_pkey", r"\dt orders",
        r"\d+ lines", r"\dv big*", r"\dD", r"\det", r"\des", r"\dy", r"\dRp", r"\dRs", r"\dX", r"\drds", r"\dd orders", r"\dt+ nothing*",
        r"\encoding", r"\dO pg_catalog.C"]
# Whose titles are PostgreSQL's; what they list differs.
LISTINGS = [r"\d", r"\dew", r"\dFp default", r"\dn public", r"\d+ orders", r"\d totals", r"\d+ totals", r"\d+ big_orders", r"\dt", r"\dt+", r"\dt *.*", r"\dv+", r"\dm+", r"\di+", r"\dS", r"\dn",
            r"\dn+", r"\l", r"\l+", r"\du", r"\du+", r"\dg", r"\df", r"\df+ now", r"\df pg_catalog.a*", r"\dT", r"\dT+", r"\dTS int*", r"\dp", r"\z orders",
            r"\dc", r"\dC", r"\db", r"\db+", r"\dF", r"\dFd", r"\dFp", r"\dFt", r"\dO", r"\do =", r"\da", r"\da sum", r"\dA", r"\dAc", r"\dAf", r"\dAo", r"\dAp",
            r"\dconfig", r"\dconfig+ work_mem", r"\dL", r"\ddp", r"\dd", r"\sv big_orders", r"\conninfo", r"\dP", r"\dl", r"\dx", r"\dE", r"\dsvm"]
for command in SAME:
    check(command)(lambda command=command: psql(command))
for command in LISTINGS:
    check(command)(lambda command=command: columns(psql(command)) if command not in (r"\sv big_orders", r"\conninfo")
                   else bool(psql(command)))


@check("aligned output")
def _():
    return psql("SELECT * FROM orders ORDER BY id", "SELECT 1, count(*), NULL FROM orders", r"\x", "SELECT * FROM totals ORDER BY 1")


@check("command tags")
def _():
    return psql("CREATE TABLE tags (a INT PRIMARY KEY)", "INSERT INTO tags VALUES (1), (2)", "UPDATE tags SET a = a + 10",
                "DELETE FROM tags WHERE a = 11", "TRUNCATE tags", "DROP TABLE tags", "BEGIN", "COMMIT", "SET application_name = 'x'")


@check("errors with their place")
def _():
    done = subprocess.run(["psql", "--no-psqlrc", "-c", "SELECT amuont FROM orders"], capture_output=True, text=True, check=False)
    return done.stderr.splitlines()[:3]


@check(r"\gdesc")
def _():
    return psql(stdin="SELECT id, customer, amount, ts, tags, count(*) OVER () AS n, NULL AS nothing, 'x' AS text FROM orders \\gdesc\n")


@check(r"\gset, \gexec, \crosstabview")
def _():
    return psql(stdin="SELECT 7 AS seven \\gset\nSELECT :seven + 1;\nSELECT 'SELECT ' || g FROM generate_series(1, 2) AS g \\gexec\n"
                "SELECT order_id, line, price FROM lines ORDER BY 1, 2 \\crosstabview\n")


@check(r"\copy to and from")
def _():
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        out = psql(f"\\copy (SELECT * FROM orders ORDER BY id) TO '{file.name}' CSV HEADER", "CREATE TABLE copied (a INT PRIMARY KEY, b TEXT)")
        with open(file.name, encoding="utf-8") as written:
            out += written.read()
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write("1,x\n2,\n")
        file.flush()
        out += psql(f"\\copy copied FROM '{file.name}' CSV", "SELECT * FROM copied ORDER BY a", "DROP TABLE copied")
    return out


@check(r"\watch")
def _():
    process = subprocess.Popen(["psql", "--no-psqlrc", "-At"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write("SELECT count(*) FROM orders \\watch 0.1\n")
    process.stdin.flush()
    lines = []
    while lines.count("3") < 3:
        line = process.stdout.readline()
        if not line:
            break
        lines.append(line.strip())
    process.kill()
    process.wait()
    return lines.count("3")


@check(r"\timing, \echo")
def _():
    out = psql(stdin="\\timing on\nSELECT 1;\n\\timing off\n\\set ON_ERROR_STOP off\nSELECT * FROM orders WHERE id = 1;\n\\echo :ROW_COUNT :SQLSTATE\n")
    return re.sub(r"[0-9.]+ ms", "n ms", out)


@check("FETCH_COUNT")
def _():
    return psql(stdin="\\set FETCH_COUNT 2\nSELECT * FROM generate_series(1, 5);\n")


@check("ON_ERROR_ROLLBACK")
def _():
    done = subprocess.run(["psql", "--no-psqlrc", "-At"], capture_output=True, text=True, check=False,
                          input="\\set ON_ERROR_ROLLBACK on\nBEGIN;\nSELECT 1/0;\nSELECT 'goes on';\nCOMMIT;\n")
    return done.stdout


@check("single transaction")
def _():
    return psql(stdin="BEGIN;\nINSERT INTO lines VALUES (5, 1, 'x', 1);\n\\echo in\nROLLBACK;\nSELECT count(*) FROM lines WHERE order_id = 5;\n")


@check("list of databases, psql -l")
def _():
    return "tidemill" in subprocess.run(["psql", "-l"], capture_output=True, text=True, check=True).stdout


version = subprocess.run(["psql", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
run(f"psql {version}")
