//! Many rows in one statement of SQLite, which has no arrays.
//!
//! Rows go in statements of 256, 128, 64 … 1 of them, so that however many there are, few texts are prepared, once.
//! They insert `OR FAIL`: whoever meets an error undoes the whole transaction, and SQLite need not keep for each statement
//! what every page was before it. Values are `?`: SQLite looks a named one up by walking all names.

use std::sync::{Arc, OnceLock};

use sqlx::{
    Arguments, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type,
    query::{Query, QueryAs},
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::failure::Failure;

/// Rows of one statement at most, as a power of two.
const SIZES: usize = 9;
const ROWS_MAX: usize = 1 << (SIZES - 1);

/// A statement over as many rows as there are, between what stands before and behind them.
pub(crate) struct Bulk {
    before: &'static str,
    row: &'static str,
    after: &'static str,
    texts: [OnceLock<Arc<str>>; SIZES],
}

impl Bulk {
    pub(crate) const fn new(before: &'static str, row: &'static str, after: &'static str) -> Self {
        Self { before, row, after, texts: [const { OnceLock::new() }; SIZES] }
    }

    fn text(&self, rows: usize) -> AssertSqlSafe<Arc<str>> {
        let text = self.texts[rows.ilog2() as usize]
            .get_or_init(|| format!("{} {} {}", self.before, vec![self.row; rows].join(","), self.after).into());
        AssertSqlSafe(Arc::clone(text))
    }

    /// A statement for each part of the rows, of which `add` adds the values of one.
    pub(crate) fn statements<'r, T>(
        &'static self,
        rows: &'r [T],
        add: impl Fn(&mut Values, &'r T) -> Result<(), Failure>,
    ) -> impl Iterator<Item = Statement> {
        parts(rows).map(move |part| {
            let mut values = Values::of(part.len(), self.columns());
            part.iter().try_for_each(|row| add(&mut values, row))?;
            Ok(self.query(part.len(), values))
        })
    }

    fn columns(&self) -> usize {
        self.row.matches('?').count()
    }

    /// The statement for `rows`, a part that [`parts`] gave.
    fn query(&self, rows: usize, values: Values) -> Query<'static, Sqlite, SqliteArguments> {
        sqlx::query_with(self.text(rows), values.0).persistent(true)
    }

    pub(crate) fn query_as<T>(&self, rows: usize, values: Values) -> QueryAs<'static, Sqlite, T, SqliteArguments>
    where
        T: for<'r> sqlx::FromRow<'r, SqliteRow>,
    {
        sqlx::query_as_with(self.text(rows), values.0).persistent(true)
    }
}

/// A statement for one part of some rows.
pub(crate) type Statement = Result<Query<'static, Sqlite, SqliteArguments>, Failure>;

/// While SQLite works on one, the next is made: its thread is what a busy hall waits for.
pub(crate) async fn execute_all(
    connection: &mut SqliteConnection,
    mut statements: impl Iterator<Item = Statement>,
) -> Result<(), Failure> {
    let mut next = statements.next();
    while let Some(statement) = next {
        let (done, following) = futures::join!(statement?.execute(&mut *connection), async { statements.next() });
        done?;
        next = following;
    }
    Ok(())
}

/// Parts of `rows`, each as large as one statement of a fixed size.
pub(crate) fn parts<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = 1 << rows.len().min(ROWS_MAX).checked_ilog2()?;
        let (part, rest) = rows.split_at(size);
        rows = rest;
        Some(part)
    })
}

/// The values of a statement, row by row.
pub(crate) struct Values(SqliteArguments);

impl Values {
    /// Of as many rows of as many columns.
    pub(crate) fn of(rows: usize, columns: usize) -> Self {
        let mut values = SqliteArguments::default();
        values.reserve(rows * columns, 0);
        Self(values)
    }

    pub(crate) fn add<'t>(&mut self, value: impl Encode<'t, Sqlite> + Type<Sqlite>) -> Result<(), Failure> {
        Ok(self.0.add(value).map_err(sqlx::Error::Encode)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_every_row_once_and_in_order_and_have_sizes_that_statements_have() {
        let rows: Vec<usize> = (0..771).collect();
        let sizes: Vec<usize> = parts(&rows).map(<[_]>::len).collect();
        assert_eq!(sizes, [256, 256, 256, 2, 1]);
        assert_eq!(parts(&rows).flatten().copied().collect::<Vec<_>>(), rows);
        assert_eq!(parts::<usize>(&[]).count(), 0);
    }
}
