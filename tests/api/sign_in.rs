//! The sign-in under attack: providers that lie, browsers that were led astray, programs that guess. The cases are
//! rows of tables; every refusal must have no effect, a reason in the audit log, and words for the person.

mod faults;
mod forgery;
mod github;
mod outages;
mod people;
mod programs;
mod redirects;
mod rotation;
mod states;
mod stranger;

use std::collections::BTreeMap;

use crate::helpers::{Browser, Reply, Request, TestServer, TestServerBuilder};
use bedrock_sso_proxy::{
    auth::keys::Keys,
    db::{
        Conn,
        audit::{AuditLogEntry, Filter},
        users::UserRecord,
    },
};

/// The provider's test people: an admin, a developer, one whose address is not verified, one without an address, and one
/// of another company.
const ADMIN_SUBJECT: &str = "1001";
const DEVELOPER: &str = "1002";
const UNVERIFIED: &str = "1003";
const NO_ADDRESS: &str = "1004";
const OTHER_COMPANY: &str = "1005";

const JSON: &str = "application/json";
const HTML: &str = "text/html,application/xhtml+xml,*/*;q=0.8";
const FORM: &str = "application/x-www-form-urlencoded";

/// With a provider, and without limits of rate: what is tested here takes many requests.
fn unlimited() -> TestServerBuilder {
    TestServerBuilder::new().sign_in().unlimited()
}

/// The same provider a second time, under the name `other`.
fn two_providers() -> TestServerBuilder {
    unlimited()
        .set("OAUTH__PROVIDERS__OTHER__ISSUER", "{issuer}")
        .set("OAUTH__PROVIDERS__OTHER__CLIENT_ID", "demo-client")
        .set("OAUTH__PROVIDERS__OTHER__CLIENT_SECRET", "simulated-client-secret-of-the-demo")
}

/// Rows that a request may have added or changed, by table and condition.
const KEPT: [&str; 13] = [
    "users",
    "users WHERE state = 'active'",
    "users WHERE admin",
    "sessions",
    "sessions WHERE ended_at IS NULL",
    "api_keys",
    "api_keys WHERE revoked_at IS NULL",
    "api_keys WHERE name = 'first'",
    "refresh_tokens",
    "one_time_codes",
    "one_time_codes WHERE user_id IS NULL",
    "one_time_codes WHERE denied_at IS NULL",
    "one_time_codes WHERE used_at IS NULL",
];

/// How many of each there are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stock(BTreeMap<&'static str, i64>);

impl Stock {
    async fn of(app: &TestServer) -> Self {
        Self(KEPT.into_iter().zip(counts(app, KEPT).await).collect())
    }
}

#[derive(diesel::QueryableByName)]
struct Count {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    count: i64,
}

/// How many rows there are: of a table, or of those that a condition leaves.
async fn count(app: &TestServer, rows: &str) -> i64 {
    let [count] = counts(app, [rows]).await;
    count
}

async fn counts<const N: usize>(app: &TestServer, rows: [&str; N]) -> [i64; N] {
    use diesel_async::RunQueryDsl;
    let pool = app.pool().await;
    let mut conn = pool.reader().await.unwrap();
    let mut found = [0; N];
    for (place, rows) in found.iter_mut().zip(rows) {
        let query = diesel::sql_query(format!("SELECT COUNT(*) AS count FROM {rows}"));
        let one: Count = match &mut conn {
            Conn::Postgres(c) => query.get_result(&mut **c).await.unwrap(),
            Conn::Sqlite(c) => query.get_result(&mut **c).await.unwrap(),
        };
        *place = one.count;
    }
    found
}

/// Changes the database behind the service's back, as time would.
async fn sql(app: &TestServer, statement: &str) {
    use diesel_async::SimpleAsyncConnection;
    let pool = app.pool().await;
    match &mut pool.writer().await.unwrap() {
        Conn::Postgres(c) => c.batch_execute(statement).await.unwrap(),
        Conn::Sqlite(c) => c.batch_execute(statement).await.unwrap(),
    }
}

/// Everything of a type in the audit log, newest first.
async fn events(app: &TestServer, event_type: &str) -> Vec<AuditLogEntry> {
    let pool = app.pool().await;
    let filter = Filter { event_type: Some(event_type.to_owned()), ..Filter::default() };
    let mut conn = pool.reader().await.unwrap();
    AuditLogEntry::list(&mut conn, &filter, None, 0, 500).await.unwrap()
}

async fn person(app: &TestServer, provider: &str, subject: &str) -> Option<UserRecord> {
    let pool = app.pool().await;
    UserRecord::by_subject(&mut pool.reader().await.unwrap(), provider, subject).await.unwrap()
}

fn keys(app: &TestServer) -> Keys {
    Keys::new(&app.settings).unwrap()
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

/// What the page of an error says, still escaped.
fn said(reply: &Reply) -> String {
    let html = text(reply);
    let (_, rest) =
        html.split_once("</h1>\n<p>").unwrap_or_else(|| panic!("an error page: {html}"));
    rest.split_once("</p>").unwrap().0.to_owned()
}

/// What an error says, in whatever shape it came.
fn message(reply: &Reply, accept: &str) -> String {
    if accept == JSON {
        reply.json()["error"]["message"].as_str().unwrap().to_owned()
    } else {
        said(reply)
    }
}

/// The stable code of an error in JSON, ours or OAuth's.
fn code(reply: &Reply) -> String {
    let json = reply.json();
    let error = &json["error"];
    error.as_str().or(error["code"].as_str()).unwrap_or_else(|| panic!("{json}")).to_owned()
}

fn sets_cookie(reply: &Reply, name: &str) -> bool {
    let mut lines = reply.headers.get_all("set-cookie");
    lines.any(|line| line.to_str().unwrap().starts_with(&format!("{name}=")))
}

/// A request of this browser as a program would send it: with its cookies, and nothing else that browsers say.
fn bare(browser: &Browser, method: &'static str, path: &str) -> Request {
    let request = Request::new(method, format!("{}{path}", browser.base));
    match browser.cookies() {
        cookies if cookies.is_empty() => request,
        cookies => request.header("cookie", cookies),
    }
}

/// The way back from the provider, as the browser goes it: path and query.
async fn way_back(browser: &Browser, provider: &str, fields: &[(&str, &str)]) -> String {
    let at = browser.begin(provider, "/").await;
    browser.consent(&at, fields).await
}

/// A query with one of its parameters replaced, or taken out.
fn with(path: &str, name: &str, value: Option<&str>) -> String {
    let mut url = url::Url::parse("http://service.invalid").unwrap().join(path).unwrap();
    let pairs: Vec<(String, String)> =
        url.query_pairs().into_owned().filter(|(known, _)| known != name).collect();
    url.query_pairs_mut().clear().extend_pairs(pairs).extend_pairs(value.map(|v| (name, v)));
    format!("{}?{}", url.path(), url.query().unwrap_or_default())
}

fn parameter(path: &str, name: &str) -> Option<String> {
    let url = url::Url::parse("http://service.invalid").unwrap().join(path).unwrap();
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}
