//! `/admin/users`: everybody, found and sorted.

use actix_web::{
    HttpResponse,
    http::StatusCode,
    web::{Data, Query},
};
use askama::Template;
use serde::Deserialize;

use super::list::{Part, address, called, number, page_with};
use crate::{
    routes::{
        api::users::{self, UserEntry, UserList},
        error::ApiError,
        pages::{AdminViewer, Pager, Problem, filled},
    },
    state::Worker,
    templates::{Place, Shell, show},
};

#[derive(Template)]
#[template(path = "admin/people.html")]
struct PeoplePage {
    shell: Shell,
    asked: Asked,
    list: UserList,
    pager: Pager,
    problem: Problem,
}

/// What the page's address says.
#[derive(Default, Deserialize)]
pub struct Asked {
    #[serde(default, deserialize_with = "filled")]
    q: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    state: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    sort: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    order: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    limit: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    offset: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

/// `GET /admin/users`
pub async fn list(
    admin: AdminViewer,
    query: Query<Asked>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let asked = query.into_inner();
    let (list, pager, problem) = match found(&worker, &asked).await {
        Ok((list, pager)) => (list, pager, Problem::default()),
        Err(error) => (UserList::default(), Pager::default(), Problem::of(error)?),
    };
    let mut conn = worker.shared.pool.reader().await?;
    let shell = admin.0.shell(&mut conn, &worker, Place::AdminUsers).await?;
    let page = PeoplePage { shell, asked, list, pager, problem };
    Ok(page_with(&page.problem, StatusCode::BAD_REQUEST, &page))
}

async fn found(worker: &Worker, asked: &Asked) -> Result<(UserList, Pager), ApiError> {
    let limit = number("limit", asked.limit.as_deref())?;
    let offset = number("offset", asked.offset.as_deref())?;
    let place = Part::place(limit, offset, asked.cursor.as_deref())?;
    let list = users::find(
        worker,
        users::Asked {
            text: asked.q.clone(),
            sort: asked.sort.clone(),
            order: asked.order.clone(),
            state: asked.state.clone(),
            limit,
            offset,
            cursor: asked.cursor.clone(),
        },
    )
    .await?;
    let part = Part {
        place,
        shown: list.users.len(),
        limit: list.limit,
        total: list.total,
        total_is_capped: list.total_is_capped,
    };
    let (sort, order) = (asked.sort.as_deref(), asked.order.as_deref());
    let mut pager = part.pager(|cursor| asked.address(sort, order, cursor));
    // Counting stops where the total is capped, but the list goes on.
    pager.next = list.next_cursor.as_deref().map(|next| asked.address(sort, order, Some(next)));
    Ok((list, pager))
}

impl Asked {
    fn address(&self, sort: Option<&str>, order: Option<&str>, cursor: Option<&str>) -> String {
        let members = [
            ("q", self.q.as_deref()),
            ("state", self.state.as_deref()),
            ("sort", sort),
            ("order", order),
            ("limit", self.limit.as_deref()),
            ("cursor", cursor),
        ];
        address("/admin/users", &members)
    }

    fn text<'a>(&self, text: &'a Option<String>) -> &'a str {
        text.as_deref().unwrap_or_default()
    }

    /// By what the list is sorted, and whether upwards.
    fn sorting(&self) -> (&str, bool) {
        let usual = if self.q.is_some() { "email" } else { "created_at" };
        let sort = self.sort.as_deref().unwrap_or(usual);
        (sort, self.order.as_deref().map_or(sort == "email", |order| order == "asc"))
    }

    /// As `aria-sort` says it.
    fn sorted_by(&self, column: &str) -> &'static str {
        match self.sorting() {
            (sort, true) if sort == column => "ascending",
            (sort, false) if sort == column => "descending",
            _ => "none",
        }
    }

    /// Sorts by a column; one that it is sorted by, the other way round.
    fn sort_link(&self, column: &str) -> String {
        let order = match self.sorting() {
            (sort, true) if sort == column => Some("desc"),
            (sort, false) if sort == column => Some("asc"),
            _ => None,
        };
        self.address(Some(column), order, None)
    }

    fn is_filtered(&self) -> bool {
        self.q.is_some() || self.state.is_some()
    }
}

impl UserEntry {
    /// What they are called.
    pub fn called(&self) -> String {
        called(self.id, self.email.as_deref(), self.display_name.as_deref())
    }

    /// The look of the badge of their state.
    pub fn mood(&self) -> &'static str {
        match self.state.as_str() {
            "active" => "good",
            "disabled" => "bad",
            _ => "warn",
        }
    }
}
