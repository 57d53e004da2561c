//! What lists and filters of these pages have in common.

use actix_web::{HttpResponse, http::StatusCode};
use askama::Template;

use crate::{
    routes::{
        api::page::{Page, write_cursor},
        error::ApiError,
        pages::{Pager, Problem},
    },
    templates::{self, show::grouped},
};

/// A number of a query, as it was typed.
pub fn number(field: &'static str, text: Option<&str>) -> Result<Option<i64>, ApiError> {
    let read = |text: &str| {
        let wrong = || ApiError::parameter(field, format!("{field} must be a whole number."));
        text.parse::<i64>().map_err(|_| wrong())
    };
    text.map(read).transpose()
}

/// A page's address with those members of its query that are set.
pub fn address(path: &str, members: &[(&str, Option<&str>)]) -> String {
    let set = members.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(set);
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

/// Part of a list whose cursors are places: where it begins, how much of it is shown, and how much there is.
pub struct Part {
    pub place: i64,
    pub shown: usize,
    pub limit: i64,
    pub total: i64,
    pub total_is_capped: bool,
}

impl Part {
    /// Where a part begins that was asked for so.
    pub fn place(
        limit: Option<i64>,
        offset: Option<i64>,
        cursor: Option<&str>,
    ) -> Result<i64, ApiError> {
        let page = Page::read(limit, offset, cursor)?;
        Ok(page.number()?.unwrap_or(page.offset))
    }

    /// `1–50 of 1,234`.
    pub fn told(&self) -> String {
        let shown = i64::try_from(self.shown).unwrap_or(i64::MAX);
        let more = if self.total_is_capped { "more than " } else { "" };
        let total = grouped(self.total);
        match (shown, self.place) {
            (0, 0) => String::new(),
            (0, _) => format!("none of {more}{total} from here on"),
            _ => {
                let (first, last) = (self.place + 1, self.place + shown);
                format!("{}–{} of {more}{total}", grouped(first), grouped(last))
            }
        }
    }

    /// Links to the parts before and after, whose addresses `at` makes of a cursor.
    pub fn pager(&self, at: impl Fn(Option<&str>) -> String) -> Pager {
        let before = (self.place - self.limit).max(0);
        let previous = (self.place > 0).then(|| match before {
            0 => at(None),
            before => at(Some(&write_cursor(before))),
        });
        let next = self.place + self.limit;
        let next = (self.shown > 0 && next < self.total).then(|| at(Some(&write_cursor(next))));
        Pager { told: self.told(), previous, next }
    }
}

/// A page, perhaps with something wrong on it: then with this status.
pub fn page_with(problem: &Problem, status: StatusCode, page: &impl Template) -> HttpResponse {
    let status = if problem.message.is_empty() { StatusCode::OK } else { status };
    templates::answer(HttpResponse::build(status), page)
}

/// How a person is called.
pub fn called(id: i64, email: Option<&str>, display_name: Option<&str>) -> String {
    let name = email.or(display_name).map(str::trim).filter(|name| !name.is_empty());
    name.map_or_else(|| format!("person {id}"), str::to_owned)
}
