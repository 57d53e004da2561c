//! How far summaries are built and how far rows and summaries are cleaned up, and the lock that both take. What changes
//! usage holds the levels shared for the length of its transaction; what builds, cleans up or changes prices holds them
//! alone. So nothing is summed up while it is being written, and each row is in every summary that it belongs in, once.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{
    Conn, DbError, SqliteAsync, Timestamp, on_conn,
    period::Period,
    schema::{job_leases, usage_levels},
};

/// What can be cleaned up: rows, or summaries of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Records,
    Summaries(Period),
}

impl Level {
    /// In the order in which they are cleaned up: what is built from something goes after it.
    pub const ALL: [Self; 5] = [
        Self::Records,
        Self::Summaries(Period::Hourly),
        Self::Summaries(Period::Daily),
        Self::Summaries(Period::Weekly),
        Self::Summaries(Period::Monthly),
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Summaries(period) => period.as_str(),
        }
    }

    fn index(self) -> usize {
        Self::ALL.iter().position(|level| *level == self).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marks {
    built_before: Timestamp,
    cleaned_before: Timestamp,
}

/// The levels as they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels([Marks; 5]);

impl Levels {
    /// Every period that starts before this is built; hours always are.
    pub fn built_before(&self, period: Period) -> Timestamp {
        self.marks(Level::Summaries(period)).built_before
    }

    /// What lies before this is being removed, or was.
    pub fn cleaned_before(&self, level: Level) -> Timestamp {
        self.marks(level).cleaned_before
    }

    /// Whether a row or a correction at `start` of this period goes into it: it is built, and not cleaned up.
    pub fn takes(&self, period: Period, start: Timestamp) -> bool {
        start < self.built_before(period) && start >= self.cleaned_before(Level::Summaries(period))
    }

    /// Whether all that a period is built from is still there.
    pub fn has_source(&self, period: Period, start: Timestamp) -> bool {
        let source = period.source().map_or(Level::Records, Level::Summaries);
        start >= self.cleaned_before(source)
    }

    /// Up to where a level may be removed: what is built directly from it is closed and built (product rule).
    pub fn removable_before(&self, level: Level, wanted: Timestamp, now: Timestamp) -> Timestamp {
        match level {
            Level::Records => Period::Hourly.floor(wanted.min(now)),
            Level::Summaries(Period::Hourly) => {
                Period::Daily.floor(wanted).min(self.built_before(Period::Daily))
            }
            Level::Summaries(Period::Daily) => Period::Daily
                .floor(wanted)
                .min(self.built_before(Period::Weekly))
                .min(self.built_before(Period::Monthly)),
            Level::Summaries(period) => period.floor(wanted.min(now)),
        }
    }

    /// As it stands after a build or a clean-up; for looking ahead.
    pub fn with_built(mut self, period: Period, before: Timestamp) -> Self {
        if let Some(marks) = self.0.get_mut(Level::Summaries(period).index()) {
            marks.built_before = marks.built_before.max(before);
        }
        self
    }

    fn marks(&self, level: Level) -> Marks {
        // The index is a position in a list of the same length.
        let [records, rest @ ..] = &self.0;
        level.index().checked_sub(1).and_then(|at| rest.get(at)).copied().unwrap_or(*records)
    }

    fn from_rows(rows: &[(String, Timestamp, Timestamp)]) -> Result<Self, DbError> {
        let mut found = Vec::with_capacity(Level::ALL.len());
        for level in Level::ALL {
            let row = rows.iter().find(|(name, ..)| name == level.as_str());
            let (_, built_before, cleaned_before) = row.ok_or_else(|| {
                DbError::Schema(format!("usage_levels has no row `{}`", level.as_str()))
            })?;
            found.push(Marks { built_before: *built_before, cleaned_before: *cleaned_before });
        }
        let found: [Marks; 5] = found
            .try_into()
            .map_err(|_| DbError::Schema("usage_levels is incomplete".to_owned()))?;
        Ok(Self(found))
    }
}

/// Before this there is no usage; levels begin here.
pub fn earliest() -> Timestamp {
    chrono::NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or_default().into()
}

/// The levels, without a lock.
pub async fn read(conn: &mut Conn) -> Result<Levels, DbError> {
    let rows: Vec<(String, Timestamp, Timestamp)> =
        on_conn!(conn, c => usage_levels::table.load(c).await)?;
    Levels::from_rows(&rows)
}

/// A job's right to write: the token that its lease had when it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub job: &'static str,
    pub token: i64,
}

/// How the levels are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    Shared,
    Alone,
}

/// Inside a transaction.
pub(crate) trait Hands {
    /// Waits for the levels, and holds them until the transaction ends. It comes before any other row is touched, but
    /// for [`super::in_audited_transaction`].
    async fn hold_levels(&mut self, hold: Hold) -> Result<Levels, DbError>;

    /// # Errors
    /// [`DbError::LeaseLost`] if somebody else has taken the job's lease since.
    async fn check_fence(&mut self, fence: Option<&Fence>) -> Result<(), DbError>;

    async fn set_level(
        &mut self,
        level: Level,
        built_before: Option<Timestamp>,
        cleaned_before: Option<Timestamp>,
    ) -> Result<(), DbError>;
}

macro_rules! hands {
    ($($connection:ty, $ordered:ident => $shared:expr, $alone:expr, $token:ident => $fenced:expr;)*) => {$(
        impl Hands for $connection {
            async fn hold_levels(&mut self, hold: Hold) -> Result<Levels, DbError> {
                let $ordered = usage_levels::table.order(usage_levels::level);
                let rows: Vec<(String, Timestamp, Timestamp)> = match hold {
                    Hold::Shared => $shared.load(self).await?,
                    Hold::Alone => $alone.load(self).await?,
                };
                Levels::from_rows(&rows)
            }

            async fn check_fence(&mut self, fence: Option<&Fence>) -> Result<(), DbError> {
                let Some(fence) = fence else { return Ok(()) };
                let $token = job_leases::table.find(fence.job).select(job_leases::token);
                let held: Option<i64> = $fenced.first(self).await.optional()?;
                if held == Some(fence.token) {
                    return Ok(());
                }
                Err(DbError::LeaseLost(fence.job))
            }

            async fn set_level(
                &mut self,
                level: Level,
                built_before: Option<Timestamp>,
                cleaned_before: Option<Timestamp>,
            ) -> Result<(), DbError> {
                let row = usage_levels::table.find(level.as_str());
                if let Some(before) = built_before {
                    let set = usage_levels::built_before.eq(before);
                    diesel::update(row).set(set).execute(self).await?;
                }
                if let Some(before) = cleaned_before {
                    let set = usage_levels::cleaned_before.eq(before);
                    diesel::update(row).set(set).execute(self).await?;
                }
                Ok(())
            }
        }
    )*};
}
// SQLite's one writer at a time is the lock there.
hands! {
    diesel_async::AsyncPgConnection,
        query => query.for_share(), query.for_update(), token => token.for_share();
    SqliteAsync, query => query, query, token => token;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("{text}T00:00:00").parse().unwrap()
    }

    fn levels(daily: &str, weekly: &str, monthly: &str) -> Levels {
        let rows = [
            ("records", "9999-01-01"),
            ("hourly", "9999-01-01"),
            ("daily", daily),
            ("weekly", weekly),
            ("monthly", monthly),
        ];
        let rows = rows.map(|(name, built)| (name.to_owned(), at(built), at("2000-01-01")));
        Levels::from_rows(&rows).unwrap()
    }

    #[test]
    fn nothing_is_removable_before_what_is_built_from_it() {
        let levels = levels("2026-11-27", "2026-11-23", "2026-11-01");
        let now = at("2026-11-27");
        for (level, wanted, removable) in [
            (Level::Records, "2026-10-28", "2026-10-28"),
            (Level::Records, "2027-10-28", "2026-11-27"),
            (Level::Summaries(Period::Hourly), "2026-11-20", "2026-11-20"),
            (Level::Summaries(Period::Hourly), "2026-12-20", "2026-11-27"),
            (Level::Summaries(Period::Daily), "2026-10-20", "2026-10-20"),
            (Level::Summaries(Period::Daily), "2026-11-20", "2026-11-01"),
            (Level::Summaries(Period::Weekly), "2026-11-20", "2026-11-16"),
            (Level::Summaries(Period::Monthly), "2027-11-20", "2026-11-01"),
        ] {
            let found = levels.removable_before(level, at(wanted), now);

            assert_eq!(found, at(removable), "{level:?} {wanted}");
        }
    }

    #[test]
    fn a_late_row_goes_into_what_is_built_and_not_cleaned_up() {
        let mut levels = levels("2026-11-27", "2026-11-23", "2026-11-01");
        levels.0[1].cleaned_before = at("2026-11-20");

        assert!(levels.takes(Period::Hourly, at("2026-11-27")));
        assert!(!levels.takes(Period::Hourly, at("2026-11-19")));
        assert!(levels.takes(Period::Daily, at("2026-11-26")));
        assert!(!levels.takes(Period::Daily, at("2026-11-27")));
        assert!(levels.takes(Period::Weekly, at("2026-11-16")));
        assert!(!levels.takes(Period::Monthly, at("2026-11-01")));
        assert!(levels.has_source(Period::Daily, at("2026-11-20")));
        assert!(!levels.has_source(Period::Daily, at("2026-11-19")));
    }
}
