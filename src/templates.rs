//! The pages: one type each, over `src/templates/*.html`. Everything is escaped where it is put in (SEC-51).

use actix_web::{HttpResponse, HttpResponseBuilder, http::header};
use askama::Template;

/// `/login`: where to sign in.
#[derive(Template)]
#[template(path = "login.html")]
pub struct LoginPage<'a> {
    pub providers: Vec<ProviderLink<'a>>,
    /// Where it goes on, if it does.
    pub next: Option<&'a str>,
}

/// A provider to sign in with.
pub struct ProviderLink<'a> {
    pub display_name: &'a str,
    /// It could not be reached lately.
    pub failing: bool,
    pub url: String,
}

/// `/`: who is signed in.
#[derive(Template)]
#[template(path = "home.html")]
pub struct HomePage<'a> {
    pub person: &'a str,
    pub admin: bool,
    pub csrf_token: &'a str,
    /// The address of this service.
    pub service: &'a str,
}

/// `/device`: type a code, then decide.
#[derive(Template)]
#[template(path = "device.html")]
pub struct DevicePage<'a> {
    pub person: &'a str,
    pub csrf_token: &'a str,
    /// The code that was typed, if a device waits under it.
    pub waiting: Option<Waiting<'a>>,
    /// What is wrong with the code.
    pub problem: Option<&'a str>,
}

/// A device that waits for its code.
pub struct Waiting<'a> {
    pub user_code: &'a str,
    pub ip_address: &'a str,
    pub user_agent: &'a str,
    pub minutes_ago: i64,
}

/// `/login/cli`: whether the command line of this machine may come in.
#[derive(Template)]
#[template(path = "cli.html")]
pub struct CliPage<'a> {
    pub person: &'a str,
    pub csrf_token: &'a str,
    pub port: u16,
    pub redirect_uri: &'a str,
    pub code_challenge: &'a str,
    pub state: &'a str,
}

/// A decision was taken; what now.
#[derive(Template)]
#[template(path = "decided.html")]
pub struct DecidedPage<'a> {
    pub title: &'a str,
    pub message: &'a str,
    /// A program of the same machine to go on to: a link, since no form may lead there.
    pub link: Option<&'a str>,
}

/// What went wrong.
#[derive(Template)]
#[template(path = "error.html")]
pub struct ErrorPage<'a> {
    pub title: &'a str,
    pub message: &'a str,
    pub request_id: &'a str,
    /// Whether it is signing in that helps.
    pub sign_in: bool,
}

/// An answer that shows a page.
pub fn answer(mut response: HttpResponseBuilder, page: &impl Template) -> HttpResponse {
    response.insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"));
    match page.render() {
        Ok(html) => response.body(html),
        Err(error) => {
            tracing::error!(%error, "a page could not be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}
