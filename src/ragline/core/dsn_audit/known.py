"""What Python calls that opens a database, reads the environment or runs a program, by full name."""

from __future__ import annotations

import re

from ragline.core.dsn_audit import lines

FUNCTIONS = frozenset(
    {
        "aiopg.connect",
        "aiopg.create_pool",
        "asyncpg.connect",
        "asyncpg.connection.connect",
        "asyncpg.create_pool",
        "asyncpg.pool.create_pool",
        "pg8000.connect",
        "pg8000.dbapi.connect",
        "psycopg.AsyncConnection.connect",
        "psycopg.Connection.connect",
        "psycopg.connect",
        "psycopg2.connect",
        "sqlalchemy.create_engine",
        "sqlalchemy.engine.create_engine",
        "sqlalchemy.engine_from_config",
        "sqlalchemy.ext.asyncio.async_engine_from_config",
        "sqlalchemy.ext.asyncio.create_async_engine",
        "sqlmodel.create_engine",
    }
)
# Types too, so that only a call is a connect.
TYPES = frozenset(
    {
        "databases.Database",
        "langchain_community.vectorstores.PGVector",
        "langchain_postgres.PGEngine.from_connection_string",
        "langchain_postgres.PGVector",
        "llama_index.vector_stores.postgres.PGVectorStore",
        "llama_index.vector_stores.postgres.PGVectorStore.from_params",
        "peewee.PostgresqlDatabase",
        "pg8000.native.Connection",
        "psycopg2.pool.SimpleConnectionPool",
        "psycopg2.pool.ThreadedConnectionPool",
        "psycopg_pool.AsyncConnectionPool",
        "psycopg_pool.AsyncNullConnectionPool",
        "psycopg_pool.ConnectionPool",
        "psycopg_pool.NullConnectionPool",
    }
)
CONNECTS = FUNCTIONS | TYPES
URL_MAKERS = frozenset({"sqlalchemy.URL.create", "sqlalchemy.engine.URL.create"})
RESOLVED = frozenset({"for_asyncpg", "for_psycopg", "for_sqlalchemy"})
READERS = frozenset({"get", "pop", "setdefault", "__getitem__"})
ALIASES = frozenset({"alias", "env", "validation_alias"})
OTHER_READERS = frozenset({"config", "env"})
ENVIRONMENTS = frozenset({"os.environ", "os.environb"})
ENV_FILES = frozenset({"dotenv.dotenv_values", "dotenv.main.dotenv_values"})
GETENV = frozenset({"os.getenv", "os.getenvb"})
RUNS_COMMANDS = re.compile(
    r"(?:subprocess\.(?:run|call|check_call|check_output|Popen|getoutput|getstatusoutput)"
    r"|os\.(?:system|popen|exec[lv]p?e?|spawn[lv]p?e?)"
    r"|asyncio\.create_subprocess_(?:exec|shell)|asyncio\.subprocess\.create_subprocess_\w+)"
)
PROGRAM = re.compile(rf"(?:[\w./-]*/)?(?P<name>{lines.PROGRAMS})")
DSN_KEYWORDS = (None, "connection", "connection_string", "conninfo", "dsn", "url")
OTHER_SCHEME = re.compile(r"(?!postgres)[a-z][a-z0-9]*(?:\+[a-z0-9]+)?://", re.IGNORECASE)
SETTERS = frozenset({"os.putenv"})
