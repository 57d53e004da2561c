//! Sums of usage as pages show them: charts by day or month, each with the table of its numbers, and shares of a whole.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use askama::filters::HtmlSafe;
use chrono::{Days, NaiveDate, NaiveTime};

use crate::{
    db::{
        Conn, DbError, Timestamp,
        levels::{Level, Levels},
        period::Period,
        summaries::{
            Measures,
            read::{self, Dimension, Groups, Selection},
        },
    },
    pricing::money::dollars,
    templates::{
        chart::{Chart, Drawing, MOST_SERIES},
        show,
    },
};

/// Up to so many days a chart has a place for each, and up to so many for each week; beyond, for each month. So a page
/// stays small, and what is read for it little.
const MOST_DAYS: i64 = 35;
const MOST_DAYS_OF_WEEKS: i64 = 400;

/// Whole days in UTC, both of them included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: NaiveDate,
    pub to: NaiveDate,
}

impl Span {
    /// The last so many days, today's included.
    pub fn last(days: u64, today: NaiveDate) -> Self {
        Self { from: back(today, days.saturating_sub(1)), to: today }
    }

    pub fn start(&self) -> Timestamp {
        self.from.and_time(NaiveTime::MIN)
    }

    /// Exclusive.
    pub fn end(&self) -> Timestamp {
        self.to.checked_add_days(Days::new(1)).unwrap_or(self.to).and_time(NaiveTime::MIN)
    }
}

/// So many days earlier.
pub fn back(day: NaiveDate, days: u64) -> NaiveDate {
    day.checked_sub_days(Days::new(days)).unwrap_or(day)
}

/// A span as it can be told: what of it there may be usage of, in which periods.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
    pub period: Period,
    /// It begins or ends elsewhere than was asked: only whole months are kept there.
    pub widened: bool,
}

impl Range {
    /// # Errors
    /// The database's.
    pub async fn of(
        conn: &mut Conn,
        levels: &Levels,
        span: Span,
        today: NaiveDate,
    ) -> Result<Self, DbError> {
        // There is nothing before the first call, and nothing after today.
        let end = span.end().min(Span { from: today, to: today }.end()).max(span.start());
        let first = read::first(conn).await?.map(|first| Period::Daily.floor(first));
        let begun = first.map_or(span.start(), |first| span.start().max(first.min(end)));
        let (start, end) = match read::widened(levels, begun, end) {
            // Who asks for nothing is told nothing.
            _ if begun >= end => (begun, begun),
            widened => widened,
        };
        let days = (end - start).num_days();
        let kept = start >= levels.cleaned_before(Level::Summaries(Period::Daily));
        let period = match days {
            ..=MOST_DAYS if kept => Period::Daily,
            ..=MOST_DAYS_OF_WEEKS if kept => Period::Weekly,
            _ => Period::Monthly,
        };
        let widened = start < begun || end > span.end();
        // The chart of a few days has all of them, those before the first call, too.
        let few = period == Period::Daily && (end - span.start()).num_days() <= MOST_DAYS;
        let start = if few && !widened { span.start().min(end) } else { start };
        Ok(Self { start, end, period, widened })
    }

    /// The periods of it, in order.
    pub fn places(&self) -> Vec<Timestamp> {
        let first = self.period.floor(self.start);
        std::iter::successors(Some(first), |at| {
            Some(self.period.next(*at)).filter(|next| next > at)
        })
        .take_while(|at| *at < self.end)
        .collect()
    }

    /// How a period is called, in full.
    pub fn name(&self, at: Timestamp) -> String {
        let format = match self.period {
            Period::Monthly => "%Y-%m",
            Period::Weekly => "%G-W%V, from %m-%d",
            Period::Daily | Period::Hourly => "%Y-%m-%d",
        };
        at.format(format).to_string()
    }

    /// And below a chart.
    fn short(&self, at: Timestamp) -> String {
        let format = if self.period == Period::Monthly { "%Y-%m" } else { "%m-%d" };
        at.format(format).to_string()
    }

    /// What its periods are called.
    pub fn by(&self) -> &'static str {
        match self.period {
            Period::Monthly => "month",
            Period::Weekly => "week",
            Period::Daily | Period::Hourly => "day",
        }
    }

    /// The same, at the head of a column.
    pub fn head(&self) -> &'static str {
        match self.period {
            Period::Monthly => "Month",
            Period::Weekly => "Week",
            Period::Daily | Period::Hourly => "Day",
        }
    }

    /// The days of a period that are inside the range.
    pub fn days_of(&self, at: Timestamp) -> Span {
        let (from, end) = (at.max(self.start), self.period.next(at).min(self.end));
        Span { from: from.date(), to: back(end.date(), 1) }
    }
}

/// Sums of a range by period and model: what totals, charts and the table by model are all made of.
pub struct ByModel {
    pub range: Range,
    pub sums: Groups,
}

impl ByModel {
    /// # Errors
    /// The database's.
    pub async fn read(
        conn: &mut Conn,
        levels: &Levels,
        selection: Selection,
        range: Range,
    ) -> Result<Self, DbError> {
        let selection = selection.by(&[Dimension::Model]);
        let span = (range.start, range.end);
        let sums = read::by_period(conn, levels, &selection, span, range.period).await?;
        Ok(Self { range, sums })
    }

    pub fn total(&self) -> Measures {
        self.since(Timestamp::MIN)
    }

    /// Of the periods that start at this time or later.
    pub fn since(&self, start: Timestamp) -> Measures {
        let late = self.sums.iter().filter(|(group, _)| group.period_start >= start);
        late.fold(Measures::default(), |sum, (_, measures)| sum + *measures)
    }

    /// By model, the one that cost most first.
    pub fn models(&self) -> Vec<(String, Measures)> {
        let mut sums: BTreeMap<&str, Measures> = BTreeMap::new();
        for (group, measures) in &self.sums {
            *sums.entry(group.model_id.as_deref().unwrap_or_default()).or_default() += *measures;
        }
        let mut sums: Vec<(String, Measures)> =
            sums.into_iter().map(|(name, measures)| (name.to_owned(), measures)).collect();
        sort(&mut sums, |measures| measures.cost_nano_usd);
        sums
    }

    /// By period, every one of the range.
    pub fn periods(&self) -> Vec<(Timestamp, Measures)> {
        let mut sums: BTreeMap<Timestamp, Measures> =
            self.range.places().into_iter().map(|at| (at, Measures::default())).collect();
        for (group, measures) in &self.sums {
            *sums.entry(group.period_start).or_default() += *measures;
        }
        sums.into_iter().collect()
    }

    /// A chart of what each model has of something, those with most of it apart and all others together.
    pub fn figure(&self, id: &'static str, measure: Measure) -> Figure {
        let mut models = self.models();
        sort(&mut models, |measures| measure.of(measures));
        models.retain(|(_, measures)| measure.of(measures) > 0);
        let apart = if models.len() > MOST_SERIES { MOST_SERIES - 1 } else { models.len() };
        let names: Vec<String> = models.iter().take(apart).map(|(name, _)| name.clone()).collect();
        let mut keys = names.clone();
        if models.len() > apart {
            keys.push(format!("{} other models", models.len() - apart));
        }
        let places = self.range.places();
        let row_of: BTreeMap<Timestamp, usize> =
            places.iter().enumerate().map(|(row, at)| (*at, row)).collect();
        let mut values = vec![vec![0_i64; keys.len()]; places.len()];
        for (group, measures) in &self.sums {
            let model = group.model_id.as_deref().unwrap_or_default();
            let column = names.iter().position(|name| name == model).unwrap_or(apart);
            let row = row_of.get(&group.period_start).and_then(|row| values.get_mut(*row));
            if let Some(cell) = row.and_then(|row| row.get_mut(column)) {
                *cell += measure.of(measures);
            }
        }
        let rows = places.iter().zip(&values).map(|(at, values)| {
            let mut cells: Vec<Cell> = values.iter().map(|value| measure.cell(*value)).collect();
            // One model alone is its own total.
            if keys.len() != 1 {
                cells.push(measure.cell(values.iter().sum()));
            }
            FigureRow { name: self.range.name(*at), cells }
        });
        let mut heads: Vec<Head> = keys
            .iter()
            .enumerate()
            .map(|(at, name)| Head { name: name.clone(), key: Some(at) })
            .collect();
        if keys.len() != 1 {
            heads.push(Head { name: "All".to_owned(), key: None });
        }
        let told: Vec<String> = places
            .iter()
            .zip(&values)
            .map(|(at, values)| {
                format!("{}: {}", self.range.name(*at), measure.told(values.iter().sum()))
            })
            .collect();
        let series: Vec<Vec<Option<f64>>> = (0..keys.len())
            .map(|at| {
                values.iter().map(|row| row.get(at).map(|value| measure.scaled(*value))).collect()
            })
            .collect();
        let rows = rows.collect();
        let caption = format!("{} by {} and model, UTC", measure.name(), self.range.by());
        let chart = Drawing {
            label: &caption,
            columns: &self.columns(),
            series: &series,
            told: &told,
            axis: measure.axis(),
        }
        .bars();
        Figure { id, caption, chart, place: self.range.head(), heads, rows }
    }

    /// Calls that failed, as a chart; its table says how many of how many.
    pub fn errors(&self, id: &'static str) -> Figure {
        let periods = self.periods();
        let value = |(_, sums): &(Timestamp, Measures)| Some(sums.errors as f64);
        let told = |(at, sums): &(Timestamp, Measures)| {
            format!(
                "{}: {} of {} calls",
                self.range.name(*at),
                show::grouped(sums.errors),
                show::grouped(sums.requests)
            )
        };
        let rows = periods.iter().map(|(at, sums)| FigureRow {
            name: self.range.name(*at),
            cells: vec![
                Cell::Count(sums.errors),
                Cell::Count(sums.requests),
                Cell::Share(sums.errors, sums.requests),
            ],
        });
        let caption = format!("Failed calls by {}, UTC", self.range.by());
        let chart = Drawing {
            label: &caption,
            columns: &self.columns(),
            series: &[periods.iter().map(value).collect()],
            told: &periods.iter().map(told).collect::<Vec<_>>(),
            axis: axis_of_counts,
        }
        .bars();
        let head = |name: &str, key| Head { name: name.to_owned(), key };
        Figure {
            id,
            caption,
            chart,
            place: self.range.head(),
            heads: vec![head("Failed", Some(0)), head("Calls", None), head("Rate", None)],
            rows: rows.collect(),
        }
    }

    /// How long calls took, and their first token, as lines.
    pub fn times(&self, id: &'static str) -> Figure {
        let periods = self.periods();
        let lines: [fn(&Measures) -> Option<i64>; 2] =
            [Measures::average_duration_ms, Measures::average_first_byte_ms];
        let series = lines.map(|line| {
            periods.iter().map(|(_, sums)| line(sums).map(|ms| ms as f64)).collect::<Vec<_>>()
        });
        let told = |(at, sums): &(Timestamp, Measures)| {
            let [whole, first] = lines.map(|line| line(sums).map_or("–".to_owned(), show::millis));
            format!("{}: whole answer {whole}, first token {first}", self.range.name(*at))
        };
        let rows = periods.iter().map(|(at, sums)| FigureRow {
            name: self.range.name(*at),
            cells: lines.iter().map(|line| Cell::Millis(line(sums))).collect(),
        });
        let caption = format!("Average times by {}, UTC", self.range.by());
        let chart = Drawing {
            label: &caption,
            columns: &self.columns(),
            series: &series,
            told: &periods.iter().map(told).collect::<Vec<_>>(),
            axis: |ms| show::millis(ms as i64),
        }
        .lines();
        let head = |name: &str, key| Head { name: name.to_owned(), key: Some(key) };
        Figure {
            id,
            caption,
            chart,
            place: self.range.head(),
            heads: vec![head("Whole answer", 0), head("First token", 1)],
            rows: rows.collect(),
        }
    }

    fn columns(&self) -> Vec<String> {
        self.range.places().into_iter().map(|at| self.range.short(at)).collect()
    }
}

/// The most first; among equals by calls, then by name.
pub fn sort(sums: &mut [(String, Measures)], of: impl Fn(&Measures) -> i64) {
    sums.sort_by(|(one, a), (other, b)| {
        let by = |measures: &Measures| (of(measures), measures.requests);
        by(b).cmp(&by(a)).then_with(|| one.cmp(other))
    });
}

/// What a chart is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Cost,
    Tokens,
    Requests,
}

impl Measure {
    pub const ALL: [Self; 3] = [Self::Cost, Self::Tokens, Self::Requests];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Tokens => "tokens",
            Self::Requests => "requests",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Cost => "Spend",
            Self::Tokens => "Tokens",
            Self::Requests => "Calls",
        }
    }

    pub fn of(self, measures: &Measures) -> i64 {
        match self {
            Self::Cost => measures.cost_nano_usd,
            Self::Tokens => measures.tokens(),
            Self::Requests => measures.requests,
        }
    }

    fn cell(self, value: i64) -> Cell {
        match (self, value) {
            (_, 0) => Cell::Nothing,
            (Self::Cost, value) => Cell::Money(value),
            (_, value) => Cell::Count(value),
        }
    }

    fn told(self, value: i64) -> String {
        match self {
            // That one is for HTML.
            Self::Cost => show::money(value).replace("&lt;", "<"),
            Self::Tokens => format!("{} tokens", show::count(value)),
            Self::Requests => format!("{} calls", show::count(value)),
        }
    }

    fn scaled(self, value: i64) -> f64 {
        if self == Self::Cost { value as f64 / 1e9 } else { value as f64 }
    }

    fn axis(self) -> fn(f64) -> String {
        if self == Self::Cost { axis_of_dollars } else { axis_of_counts }
    }
}

fn axis_of_counts(value: f64) -> String {
    // Half a call is none.
    if value.fract() > 0.001 && value < 10.0 {
        String::new()
    } else {
        show::count(value.round() as i64)
    }
}

fn axis_of_dollars(value: f64) -> String {
    if value >= 1.0 && value.fract() < 0.001 {
        return format!("${}", show::count(value as i64));
    }
    let text = format!("{value:.9}");
    format!("${}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A chart, and a table of its numbers.
pub struct Figure {
    pub id: &'static str,
    pub caption: String,
    pub chart: Chart,
    /// What the rows are: days or months.
    pub place: &'static str,
    pub heads: Vec<Head>,
    pub rows: Vec<FigureRow>,
}

/// A column of numbers, and the colour that it has in the chart.
pub struct Head {
    pub name: String,
    pub key: Option<usize>,
}

impl Figure {
    /// What colours mean, if there is more than one.
    pub fn legend(&self) -> Vec<(usize, &str)> {
        self.heads.iter().filter_map(|head| Some((head.key?, head.name.as_str()))).collect()
    }
}

pub struct FigureRow {
    pub name: String,
    pub cells: Vec<Cell>,
}

/// A number of a table.
#[derive(Debug, Clone, Copy)]
pub enum Cell {
    Nothing,
    Money(i64),
    Count(i64),
    Millis(Option<i64>),
    Share(i64, i64),
}

impl HtmlSafe for Cell {}

impl Display for Cell {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Nothing => f.write_str("–"),
            // Without a title: there are many of them.
            Self::Money(value) => {
                write!(f, "<data value=\"{}\">{}</data>", dollars(value), show::money(value))
            }
            Self::Count(value) => show::number(value).fmt(f),
            Self::Millis(value) => show::duration(value).fmt(f),
            Self::Share(part, whole) => show::share(part, whole).fmt(f),
        }
    }
}

/// A part of a whole, by name: a row of a table with a bar.
pub struct Part {
    pub name: String,
    /// Where one sees only this.
    pub href: Option<String>,
    pub requests: i64,
    pub tokens: i64,
    pub cost: Option<i64>,
    pub unpriced: i64,
    /// Of the cost of the whole, of which it is a share.
    pub whole: i64,
}

impl Part {
    pub fn new(name: String, href: Option<String>, measures: &Measures, whole: i64) -> Self {
        Self {
            name,
            href,
            requests: measures.requests,
            tokens: measures.tokens(),
            cost: measures.known_cost(),
            unpriced: measures.unpriced,
            whole,
        }
    }

    /// The first of them, and all others together.
    pub fn first(mut parts: Vec<Self>, most: usize, what: &str) -> Vec<Self> {
        if parts.len() <= most + 1 {
            return parts;
        }
        let rest = parts.split_off(most);
        let sum = |of: fn(&Self) -> i64| rest.iter().map(of).sum::<i64>();
        let known = rest.iter().any(|part| part.cost.is_some());
        let others = Self {
            name: format!("{} other {what}", rest.len()),
            href: None,
            requests: sum(|part| part.requests),
            tokens: sum(|part| part.tokens),
            cost: known.then(|| sum(|part| part.cost.unwrap_or(0))),
            unpriced: sum(|part| part.unpriced),
            whole: rest.first().map_or(0, |part| part.whole),
        };
        parts.push(others);
        parts
    }

    /// In thousandths, for a bar.
    pub fn per_mille(&self) -> i64 {
        let part = i128::from(self.cost.unwrap_or(0).max(0)) * 1000;
        let share = part.checked_div(i128::from(self.whole)).unwrap_or(0);
        i64::try_from(share.min(1000)).unwrap_or(0)
    }
}
