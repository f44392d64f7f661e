//! SQL for SQLite and Postgres, and the migrations of both.
