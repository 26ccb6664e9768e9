"""The peer of the API: FastAPI routes that run one query and return its rows as JSON, without keys, models or an ORM.

`DATABASE` is the file of SQLite, or the address of PostgreSQL. Served by `uvicorn bench.peers.bare_api:app`.
"""

import json
import os
import sqlite3
import threading
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from psycopg.rows import dict_row

app = FastAPI()
address = os.environ["DATABASE"]
on_postgresql = address.startswith("postgresql://")
local = threading.local()

LIST = "SELECT {columns} FROM {table} WHERE {filters} ORDER BY {order} LIMIT 21"
SOURCES = {"pairs": "job_metadata AS m JOIN jobs ON jobs.id = m.job_id"}
FROM_JSON = ("user_metadata", "progress", "metrics", "error", "spec", "resolved", "preflight", "data")


def rows(sql: str, values: list[Any]) -> list[dict[str, Any]]:
    """Run one query on the connection of this thread."""
    if on_postgresql:
        if not hasattr(local, "connection"):
            local.connection = psycopg.connect(address, autocommit=True, row_factory=dict_row)
        return local.connection.execute(sql.replace("?", "%s"), values).fetchall()
    if not hasattr(local, "connection"):
        local.connection = sqlite3.connect(address, isolation_level=None)
        local.connection.row_factory = sqlite3.Row
    found = [dict(row) for row in local.connection.execute(sql, values)]
    for row in found:
        for name in FROM_JSON:
            if row.get(name) is not None:
                row[name] = json.loads(row[name])
    return found


@app.get("/job/{job_id}")
def job(job_id: str) -> Any:
    """One row."""
    return rows("SELECT * FROM jobs WHERE id = ?", [job_id])[0]


@app.get("/rows/{table}")
def table_rows(table: str, request: Request, columns: str, order: str) -> Any:
    """The rows of a table that have these values, in an order."""
    given = {name: value for name, value in request.query_params.items() if name not in ("columns", "order")}
    filters = " AND ".join(f"{name} = ?" for name in given)
    return {
        "data": rows(
            LIST.format(columns=columns, table=SOURCES.get(table, table), filters=filters, order=order),
            list(given.values()),
        )
    }
