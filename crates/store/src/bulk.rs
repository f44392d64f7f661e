//! Many rows in one statement of SQLite, which has no arrays.
//!
//! A statement has room for 1, 2, 4 … or 256 rows, and takes as many as are given: so that however many there are, few
//! texts are prepared, once, and few journeys are made to SQLite's thread. They insert `OR FAIL`: whoever meets an error
//! undoes the whole transaction, and SQLite need not keep for each statement what every page was before it. Values are
//! `?`: SQLite looks a named one up by walking all names.

use std::sync::{Arc, OnceLock};

use sqlx::{
    Arguments, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type,
    query::{Query, QueryAs},
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::{failure::Failure, row::signed};

/// Rows of one statement at most, as a power of two.
const SIZES: usize = 9;
const ROWS_MAX: usize = 1 << (SIZES - 1);

/// A statement over the rows that are given to it, which it knows as `given`, and over what all of them have in common:
/// `common`, one row.
pub(crate) struct Bulk {
    common: &'static [&'static str],
    columns: &'static [&'static str],
    statement: &'static str,
    texts: [OnceLock<Arc<str>>; SIZES],
}

impl Bulk {
    pub(crate) const fn new(columns: &'static [&'static str], statement: &'static str) -> Self {
        Self::with_common(&[], columns, statement)
    }

    pub(crate) const fn with_common(
        common: &'static [&'static str],
        columns: &'static [&'static str],
        statement: &'static str,
    ) -> Self {
        Self { common, columns, statement, texts: [const { OnceLock::new() }; SIZES] }
    }

    /// With room for `rows`, and perhaps more.
    fn text(&self, rows: usize) -> AssertSqlSafe<Arc<str>> {
        let size = rows.next_power_of_two();
        let write = || {
            let values = |columns: usize| format!("({})", vec!["?"; columns].join(","));
            let (common, columns) = ([&["there_are"], self.common].concat(), self.columns.join(","));
            let rows = vec![values(self.columns.len()); size].join(",");
            format!(
                "WITH common ({}) AS (VALUES {}), given ({columns}) AS
                 (SELECT * FROM (VALUES {rows}) LIMIT (SELECT there_are FROM common)) {}",
                common.join(","),
                values(common.len()),
                self.statement
            )
        };
        AssertSqlSafe(Arc::clone(self.texts[size.ilog2() as usize].get_or_init(|| write().into())))
    }

    /// A statement for each part of the rows, of which `add` adds the values of one.
    pub(crate) fn statements<'r, T>(
        &'static self,
        rows: &'r [T],
        add: impl Fn(&mut Values, &'r T) -> Result<(), Failure>,
    ) -> impl Iterator<Item = Statement> {
        self.statements_with(|_| Ok(()), rows, add)
    }

    /// Likewise, where `common` adds the values that all rows have in common.
    pub(crate) fn statements_with<'r, T>(
        &'static self,
        common: impl Fn(&mut Values) -> Result<(), Failure>,
        rows: &'r [T],
        add: impl Fn(&mut Values, &'r T) -> Result<(), Failure>,
    ) -> impl Iterator<Item = Statement> {
        let query = move |part: &'r [T]| {
            Ok(sqlx::query_with(self.text(part.len()), self.values(&common, part, &add)?).persistent(true))
        };
        rows.chunks(ROWS_MAX).map(query)
    }

    /// Likewise, of a statement that gives rows.
    pub(crate) fn queries<'r, T, Row>(
        &'static self,
        rows: &'r [T],
        add: impl Fn(&mut Values, &'r T) -> Result<(), Failure>,
    ) -> impl Iterator<Item = Result<QueryAs<'static, Sqlite, Row, SqliteArguments>, Failure>>
    where
        Row: for<'row> sqlx::FromRow<'row, SqliteRow>,
    {
        let query = move |part: &'r [T]| {
            Ok(sqlx::query_as_with(self.text(part.len()), self.values(|_| Ok(()), part, &add)?).persistent(true))
        };
        rows.chunks(ROWS_MAX).map(query)
    }

    fn values<'r, T>(
        &self,
        common: impl Fn(&mut Values) -> Result<(), Failure>,
        rows: &'r [T],
        add: impl Fn(&mut Values, &'r T) -> Result<(), Failure>,
    ) -> Result<SqliteArguments, Failure> {
        let mut values = Values(SqliteArguments::default());
        values.0.reserve(1 + self.common.len() + rows.len() * self.columns.len(), 0);
        values.add(signed(rows.len() as u64))?;
        common(&mut values)?;
        rows.iter().try_for_each(|row| add(&mut values, row))?;
        Ok(values.0)
    }
}

/// A statement for one part of some rows.
pub(crate) type Statement = Result<Query<'static, Sqlite, SqliteArguments>, Failure>;

/// While SQLite works on one, the next is made: its thread is what a busy hall waits for. Gives the number of rows that
/// they have written.
pub(crate) async fn execute_all(
    connection: &mut SqliteConnection,
    mut statements: impl Iterator<Item = Statement>,
) -> Result<u64, Failure> {
    let (mut written, mut next) = (0, statements.next());
    while let Some(statement) = next {
        let (done, following) = futures::join!(statement?.execute(&mut *connection), async { statements.next() });
        written += done?.rows_affected();
        next = following;
    }
    Ok(written)
}

/// The values of a statement, row by row.
pub(crate) struct Values(SqliteArguments);

impl Values {
    pub(crate) fn add<'t>(&mut self, value: impl Encode<'t, Sqlite> + Type<Sqlite>) -> Result<(), Failure> {
        Ok(self.0.add(value).map_err(sqlx::Error::Encode)?)
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::*;

    static ADD: Bulk = Bulk::new(&["n", "t"], "INSERT OR FAIL INTO rows (n, t) SELECT * FROM given");
    static FIND: Bulk = Bulk::new(&["n"], "SELECT rows.n, rows.t FROM given CROSS JOIN rows ON rows.n = given.n");

    #[tokio::test]
    async fn every_row_is_given_once_and_in_order_however_many_there_are() {
        let mut sqlite = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::query("CREATE TABLE rows (n INTEGER PRIMARY KEY, t TEXT)").execute(&mut sqlite).await.unwrap();
        let mut all = Vec::new();
        for many in [0, 1, 2, 3, 129, 255, 256, 257, 771] {
            let rows: Vec<i64> = (0..many).map(|n| signed(all.len() as u64) + n).collect();
            let add = |values: &mut Values, n: &i64| {
                values.add(*n)?;
                values.add((*n % 7 != 0).then(|| n.to_string()))
            };
            execute_all(&mut sqlite, ADD.statements(&rows, add)).await.unwrap();
            let mut found: Vec<(i64, Option<String>)> = Vec::new();
            for query in FIND.queries(&rows, |values, n| values.add(*n)) {
                found.extend(query.unwrap().fetch_all(&mut sqlite).await.unwrap());
            }
            assert_eq!(found, rows.iter().map(|n| (*n, (n % 7 != 0).then(|| n.to_string()))).collect::<Vec<_>>());
            all.extend(rows);
        }
        let there: Vec<i64> = sqlx::query_scalar("SELECT n FROM rows ORDER BY n").fetch_all(&mut sqlite).await.unwrap();
        assert_eq!(there, all);
    }
}
