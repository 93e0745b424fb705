"""The ClickHouse engine without a ClickHouse server: chDB behind the native protocol.

`python -m deploy.local.clickhouse --port 19000 --data DIR` serves what clickhouse-driver and other native
clients speak, so that a laptop, the tests and a province run the same client code. One process owns one
data folder.

From the wire inwards: `wire` (bytes, frames), `columns` (where a column ends), `blocks` (Native blocks),
`packets` (the protocol's messages), `statements` (what a query text asks for), `engine` (chDB),
`connection` (one client), `server` (listening, limits, shutdown).
"""
