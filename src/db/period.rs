//! The periods of summaries, in UTC: hours, days, weeks from Monday (ISO 8601) and months; and which are built from which.

use chrono::{Datelike, Days, Months, NaiveTime, TimeDelta, Timelike};

use super::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    Hourly,
    Daily,
    Weekly,
    Monthly,
}

impl Period {
    pub const ALL: [Self; 4] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly];

    /// The spelling in tables, settings and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }

    /// What this is built from; hours are sums of rows.
    pub fn source(self) -> Option<Self> {
        match self {
            Self::Hourly => None,
            Self::Daily => Some(Self::Hourly),
            Self::Weekly | Self::Monthly => Some(Self::Daily),
        }
    }

    /// The start of the period that holds this time.
    pub fn floor(self, time: Timestamp) -> Timestamp {
        let date = time.date();
        let date = match self {
            Self::Hourly => {
                let hour = NaiveTime::from_hms_opt(time.hour(), 0, 0).unwrap_or_default();
                return date.and_time(hour);
            }
            Self::Daily => date,
            Self::Weekly => {
                let since_monday = u64::from(date.weekday().num_days_from_monday());
                date.checked_sub_days(Days::new(since_monday)).unwrap_or(date)
            }
            Self::Monthly => date.with_day(1).unwrap_or(date),
        };
        date.and_time(NaiveTime::MIN)
    }

    /// The start of the next one; the same again at the end of the calendar.
    pub fn next(self, start: Timestamp) -> Timestamp {
        let next = match self {
            Self::Hourly => start.checked_add_signed(TimeDelta::hours(1)),
            Self::Daily => start.checked_add_days(Days::new(1)),
            Self::Weekly => start.checked_add_days(Days::new(7)),
            Self::Monthly => start.checked_add_months(Months::new(1)),
        };
        next.unwrap_or(start)
    }

    /// The first start that is not before this time.
    pub fn ceil(self, time: Timestamp) -> Timestamp {
        let floor = self.floor(time);
        if floor == time { floor } else { self.next(floor) }
    }
}

impl std::str::FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|period| period.as_str() == text);
        found.ok_or_else(|| format!("`{text}` is not one of hourly, daily, weekly, monthly"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn periods_begin_where_the_calendar_says() {
        for (period, time, floor, next) in [
            (
                Period::Hourly,
                "2026-11-27T14:59:59.999",
                "2026-11-27T14:00:00",
                "2026-11-27T15:00:00",
            ),
            (
                Period::Daily,
                "2026-11-27T23:59:59.999",
                "2026-11-27T00:00:00",
                "2026-11-28T00:00:00",
            ),
            (Period::Weekly, "2026-11-29T23:00:00", "2026-11-23T00:00:00", "2026-11-30T00:00:00"),
            (Period::Weekly, "2026-11-30T00:00:00", "2026-11-30T00:00:00", "2026-12-07T00:00:00"),
            (Period::Weekly, "2027-01-01T12:00:00", "2026-12-28T00:00:00", "2027-01-04T00:00:00"),
            (Period::Monthly, "2024-02-29T12:00:00", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
            (Period::Monthly, "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ] {
            assert_eq!(period.floor(at(time)), at(floor), "{period:?} {time}");
            assert_eq!(period.next(at(floor)), at(next), "{period:?} {time}");
            assert_eq!(period.ceil(at(floor)), at(floor));
            assert!(
                period.ceil(at(time)) >= at(time)
                    && period.floor(period.ceil(at(time))) == period.ceil(at(time))
            );
        }
    }

    #[test]
    fn the_ends_of_the_calendar_do_not_panic() {
        for period in Period::ALL {
            for time in [Timestamp::MIN, Timestamp::MAX] {
                let floor = period.floor(time);
                assert!(period.next(floor) >= floor);
            }
        }
    }
}
