"""dbt: a small project with dbt-postgres, in this process."""

import json
import os
import pathlib
import tempfile
from importlib.metadata import version

from dbt.cli.main import dbtRunner

from checks import check, run

SCHEMA = "dbt_shop"
FILES = {
    "dbt_project.yml": """
name: shop
version: 1.0.0
profile: shop
model-paths: [models]
seed-paths: [seeds]
snapshot-paths: [snapshots]
flags: {send_anonymous_usage_stats: false, use_colors: false}
""",
    "profiles.yml": f"""
shop:
  target: dev
  outputs:
    dev: {{type: postgres, host: "{os.environ['PGHOST']}", port: {os.environ['PGPORT']}, user: "{os.environ['PGUSER']}",
          password: none, dbname: "{os.environ['PGDATABASE']}", schema: {SCHEMA}, threads: 2}}
""",
    "models/sources.yml": """
sources:
  - name: shop
    schema: public
    tables: [{name: orders}, {name: lines}]
""",
    "models/staged.sql": "{{ config(materialized='view') }} select id, customer, amount from {{ source('shop', 'orders') }}",
    "models/spent.sql": "{{ config(materialized='table') }} select customer, sum(amount) as total from {{ ref('staged') }} group by customer",
    "models/kept.sql": """{{ config(materialized='materialized_view', on_configuration_change='apply') }}
select customer, count(*) as n from {{ source('shop', 'orders') }} group by customer""",
    "models/grown.sql": """{{ config(materialized='incremental', unique_key='id') }} select id, amount from {{ source('shop', 'orders') }}
{% if is_incremental() %} where id >= (select max(id) from {{ this }}) {% endif %}""",
    "models/inlined.sql": "{{ config(materialized='ephemeral') }} select 1 as one",
    "models/on_inlined.sql": "select one + 1 as two from {{ ref('inlined') }}",
    "models/schema.yml": """
models:
  - name: spent
    description: what was spent
    columns:
      - name: customer
        data_tests: [unique, not_null]
      - name: total
  - name: staged
    columns:
      - name: id
        data_tests: [unique, not_null]
      - name: customer
        data_tests: [{accepted_values: {arguments: {values: [ann, bob]}}}]
""",
    "seeds/countries.csv": "code,name\nde,Germany\nfr,France\n",
}

directory = tempfile.TemporaryDirectory(prefix="tidemill-dbt-")
root = pathlib.Path(directory.name)
for name, content in FILES.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content.lstrip(), encoding="utf-8")


def dbt(*args):
    """Each node with its outcome."""
    place = ["--project-dir", str(root), "--profiles-dir", str(root), "--quiet"]
    result = dbtRunner().invoke([*args, *place])
    if result.exception:
        raise result.exception
    outcomes = {}
    for outcome in getattr(result.result, "results", None) or []:
        if not hasattr(outcome, "node"):
            continue
        if str(outcome.status) not in ("success", "pass"):
            raise RuntimeError(f"{outcome.node.name}: {outcome.status}: {outcome.message}")
        # Tests are told apart by a digest.
        outcomes[outcome.node.name] = str(outcome.status)
    if not result.success:
        raise RuntimeError(f"dbt {args[0]} failed")
    return dict(sorted(outcomes.items()))


check("debug")(lambda: dbt("debug"))
check("seed")(lambda: dbt("seed"))
check("run: view")(lambda: dbt("run", "--select", "staged"))
check("run: table")(lambda: dbt("run", "--select", "spent"))
check("run: table again")(lambda: dbt("run", "--select", "spent"))
check("run: incremental")(lambda: dbt("run", "--select", "grown"))
check("run: incremental again")(lambda: dbt("run", "--select", "grown"))
check("run: materialized view")(lambda: dbt("run", "--select", "kept"))
check("run: materialized view again")(lambda: dbt("run", "--select", "kept"))
check("run: all")(lambda: dbt("run"))
check("test")(lambda: dbt("test"))


@check("docs generate")
def _():
    dbt("docs", "generate")
    catalog = json.loads((root / "target/catalog.json").read_text(encoding="utf-8"))
    return {name.rsplit(".", 1)[-1]: [node["metadata"]["type"], [[column["name"], column["type"]] for column in node["columns"].values()]]
            for name, node in sorted({**catalog["nodes"], **catalog["sources"]}.items())}


@check("show")
def _():
    return bool(dbt("show", "--inline", "select * from {{ ref('spent') }}"))


run(f"dbt-core {version('dbt-core')}, dbt-postgres {version('dbt-postgres')}")
