//! When a job runs: a cron expression in a time zone, with the meaning that crontab(5) gives it. What it knows is the
//! clock on the wall and its changes; what time it is now, and what ran already, its caller knows.

use std::{collections::BTreeSet, fmt, iter::StepBy, ops::RangeInclusive};

use chrono::{DateTime, FixedOffset, NaiveDateTime, Offset, TimeDelta, TimeZone};
use chrono_tz::{GapInfo, Tz};

use crate::db::Timestamp;

/// A longer expression is a mistake, and would be shown in messages and pages.
const LONGEST: usize = 256;
/// Slots lie between these, in Unix seconds: the cron crate knows the years from 1970 to 2100, and this ends with the
/// last but one, for the evening of 2100 is 2101 elsewhere.
const FIRST: i64 = 0;
const LAST: i64 = 4_102_444_800;
const ONE_DAY: TimeDelta = TimeDelta::days(1);
const ONE_SECOND: TimeDelta = TimeDelta::seconds(1);

const SHORTHANDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// Why an expression or a zone is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error("a cron expression may have {LONGEST} bytes; this has {0}")]
    TooLong(usize),
    #[error(
        "a cron expression has five fields (minute, hour, day of month, month, day of week), or six with seconds \
         first; this has {0}{year}", year = if *.0 == 7 { ": leave out the year" } else { "" }
    )]
    FieldCount(usize),
    #[error(
        "{0:?} is unknown: use @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, or five fields"
    )]
    Shorthand(String),
    #[error("{field}: {item:?} is wrong: {fix}")]
    Item { field: &'static str, item: String, fix: String },
    #[error(
        "the time zone {0:?} is unknown: use a name of the tz database, such as UTC or Europe/Berlin"
    )]
    Zone(String),
}

/// The zone of a name in the tz database, spelled as there: `UTC`, `Europe/Berlin`.
///
/// # Errors
/// [`ScheduleError::Zone`] if there is no such zone.
pub fn zone(name: &str) -> Result<Tz, ScheduleError> {
    name.parse().map_err(|_| ScheduleError::Zone(name.to_owned()))
}

/// When a job runs. Its slots are whole seconds.
#[derive(Clone)]
pub struct Schedule {
    expression: String,
    zone: Tz,
    /// A slot of any of these is one: the crate wants both days to match, crontab(5) either if both are restricted.
    any: Vec<cron::Schedule>,
    /// Whether the hour field is a wildcard: the job runs every so often, rather than at a time of the day.
    every_hour: bool,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({:?} in {})", self.expression, self.zone)
    }
}

impl Schedule {
    /// Reads five fields (minute, hour, day of month, month, day of week), six with seconds first, or a shorthand such
    /// as `@daily`. Sunday is 0 and 7. If both days are restricted (neither starts with `*`), either suffices.
    ///
    /// # Errors
    /// [`ScheduleError`], which says what to write instead.
    pub fn new(expression: &str, zone: Tz) -> Result<Self, ScheduleError> {
        let expression = expression.trim_ascii();
        if expression.len() > LONGEST {
            return Err(ScheduleError::TooLong(expression.len()));
        }
        let mut long = expression;
        if expression.starts_with('@') {
            let known = SHORTHANDS.iter().find(|(short, _)| *short == expression);
            long = known.ok_or_else(|| ScheduleError::Shorthand(expression.to_owned()))?.1;
        }
        let given: Vec<&str> = long.split_ascii_whitespace().collect();
        let (second, [minute, hour, day, month, weekday]) = match *given {
            [minute, hour, day, month, weekday] => ("0", [minute, hour, day, month, weekday]),
            [second, minute, hour, day, month, weekday] => {
                (second, [minute, hour, day, month, weekday])
            }
            _ => return Err(ScheduleError::FieldCount(given.len())),
        };
        let time = [SECOND.read(second)?, MINUTE.read(minute)?, HOUR.read(hour)?].join(" ");
        let (days, months) = (DAY_OF_MONTH.read(day)?, MONTH.read(month)?);
        let weekdays = DAY_OF_WEEK.read(weekday)?;
        let search = |days: &str, weekdays: &str| -> cron::Schedule {
            let numbers = format!("{time} {days} {months} {weekdays}");
            numbers.parse().expect("each field is a list of numbers in its range")
        };
        let any = if day.starts_with('*') || weekday.starts_with('*') {
            vec![search(&days, &weekdays)]
        } else {
            vec![search(&days, "*"), search("*", &weekdays)]
        };
        let (expression, every_hour) = (expression.to_owned(), hour.starts_with('*'));
        Ok(Self { expression, zone, any, every_hour })
    }

    /// As it was given.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first slot after `after`, both in UTC. `None` if there is none (30 February), or none before the year 2100.
    ///
    /// As vixie cron has it, a time of the day that the clocks skip in spring is made up for at once when they have,
    /// and one that they show twice in autumn counts the first time. A schedule whose hour is a wildcard follows real
    /// time instead: it runs whenever the clock shows a time of its own.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = whole_second(after);
        let next =
            if self.every_hour { self.next_by_interval(after) } else { self.next_by_clock(after) };
        next.filter(|slot| slot.and_utc().timestamp() < LAST)
    }

    /// The newest slot in (`after`, `until`], both in UTC: what a scheduler that slept makes up for, once, however many
    /// it missed.
    pub fn latest_in(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let until = whole_second(until);
        let (mut low, mut high) = (whole_second(after), until);
        // Years of slots are too many to walk, so this halves what may hold a newer one: (low, high].
        let mut newest = None;
        while low < high {
            let middle = low + half(high - low);
            match self.next_after(middle).filter(|slot| *slot <= until) {
                Some(slot) => (newest, low) = (Some(slot), slot),
                None => high = middle,
            }
        }
        newest
    }

    /// A slot is the first instant at which the clock shows its time, or a later one: so times that are skipped become
    /// one slot, and slots grow as their times do.
    fn next_by_clock(&self, after: Timestamp) -> Option<Timestamp> {
        let mut time = after + self.offset(after);
        loop {
            time = self.next_time(time)?;
            let slot = match self.zone.from_local_datetime(&time).earliest() {
                Some(shown) => shown.naive_utc(),
                None => GapInfo::new(&time, &self.zone)?.end?.naive_utc(),
            };
            // Not so while the clock shows times again: their slots were when it showed them first.
            if slot > after {
                return Some(slot);
            }
        }
    }

    /// A slot is every instant at which the clock shows a time of the schedule. Between two changes of the clock this
    /// is plain arithmetic; at a change it starts anew.
    fn next_by_interval(&self, after: Timestamp) -> Option<Timestamp> {
        let (mut from, mut offset) = (after, self.offset(after));
        loop {
            let slot = self.next_time(from + offset)? - offset;
            let Some(change) = self.first_change(from, slot, offset) else { return Some(slot) };
            (from, offset) = (change - ONE_SECOND, self.offset(change));
        }
    }

    /// The first instant in (`from`, `to`] that has another offset. It looks once a day: no zone ever changed its clock
    /// and changed it back within one.
    fn first_change(
        &self,
        from: Timestamp,
        to: Timestamp,
        offset: FixedOffset,
    ) -> Option<Timestamp> {
        let (mut same, mut other) = (from, to.min(from + ONE_DAY));
        while self.offset(other) == offset {
            if other == to {
                return None;
            }
            (same, other) = (other, to.min(other + ONE_DAY));
        }
        while other - same > ONE_SECOND {
            let middle = same + half(other - same);
            if self.offset(middle) == offset { same = middle } else { other = middle }
        }
        Some(other)
    }

    /// The next time of the schedule on a clock that never changes; the crate's own way with zones repeats or skips
    /// slots at a change.
    fn next_time(&self, time: NaiveDateTime) -> Option<NaiveDateTime> {
        let time = time.and_utc();
        let next = self.any.iter().filter_map(|schedule| schedule.after(&time).next()).min()?;
        Some(next.naive_utc())
    }

    fn offset(&self, at: Timestamp) -> FixedOffset {
        self.zone.offset_from_utc_datetime(&at).fix()
    }
}

/// Of a time that a slot can be compared with: whole seconds, and near enough to be reckoned with.
fn whole_second(time: Timestamp) -> Timestamp {
    let seconds = time.and_utc().timestamp().clamp(FIRST, LAST);
    DateTime::from_timestamp(seconds, 0).expect("both ends are dates").naive_utc()
}

/// In whole seconds, rounded down.
fn half(length: TimeDelta) -> TimeDelta {
    TimeDelta::seconds(length.num_seconds() / 2)
}

/// What one field of an expression may hold.
struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    /// What `low` and the numbers after it may be called.
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const SECOND: Field = Field { name: "second", low: 0, high: 59, names: &[] };
const MINUTE: Field = Field { name: "minute", low: 0, high: 59, names: &[] };
const HOUR: Field = Field { name: "hour", low: 0, high: 23, names: &[] };
const DAY_OF_MONTH: Field = Field { name: "day of month", low: 1, high: 31, names: &[] };
const MONTH: Field = Field { name: "month", low: 1, high: 12, names: &MONTHS };
const DAY_OF_WEEK: Field = Field { name: "day of week", low: 0, high: 7, names: &DAYS };

impl Field {
    /// The numbers that a field stands for, as the crate takes them: a list, with days of the week from Sunday = 1.
    fn read(&self, field: &str) -> Result<String, ScheduleError> {
        let mut numbers = BTreeSet::new();
        for item in field.split(',') {
            let read = self.item(item);
            numbers.extend(read.map_err(|fix| ScheduleError::Item {
                field: self.name,
                item: item.to_owned(),
                fix,
            })?);
        }
        let number = |number: u32| if self.is_week() { number % 7 + 1 } else { number };
        let texts: Vec<String> =
            numbers.into_iter().map(|given| number(given).to_string()).collect();
        Ok(texts.join(","))
    }

    /// `*`, `5`, `1-5`, `MON-FRI`, and each with a step; or what to write instead.
    fn item(&self, item: &str) -> Result<StepBy<RangeInclusive<u32>>, String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step)?)),
            None => (item, None),
        };
        // What has no end of its own ends with Saturday, lest Sunday counts twice.
        let end = if self.is_week() { 6 } else { self.high };
        let (low, high) = match range.split_once('-') {
            Some((low, high)) => (self.number(low)?, self.number(high)?),
            None if range == "*" => (self.low, end),
            None => {
                let low = self.number(range)?;
                (low, if step.is_some() { end.max(low) } else { low })
            }
        };
        // A range may end with Sunday, by whichever number: SAT-SUN is the weekend.
        let high = if self.is_week() && high == 0 && low > 0 { 7 } else { high };
        if low > high {
            return Err("a range goes from the lower to the higher; write two, with a comma".into());
        }
        Ok((low..=high).step_by(step.unwrap_or(1)))
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = match named {
            Some(place) => u32::try_from(place).ok().map(|place| place + self.low),
            None => digits(text),
        };
        number.filter(|number| (self.low..=self.high).contains(number)).ok_or_else(|| {
            let (low, high) = (self.low, self.high);
            let names = match self.names {
                [first, .., last] => format!(" or names from {first} to {last}"),
                _ => String::new(),
            };
            format!(
                "use `*`, numbers from {low} to {high}{names}, ranges such as {low}-{high}, steps such as */2, and \
                 lists of these with commas; `?`, `L`, `W` and `#` are not known here"
            )
        })
    }

    /// A step as long as the field would not be what it seems: `*/90` is each hour, not each 90 minutes.
    fn step(&self, text: &str) -> Result<usize, String> {
        let step = digits(text).filter(|step| (1..=self.high).contains(step));
        let step = step.and_then(|step| usize::try_from(step).ok());
        step.ok_or_else(|| format!("a step is a number from 1 to {}", self.high))
    }

    fn is_week(&self) -> bool {
        self.high == 7
    }
}

/// A number without the sign that Rust would take.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
