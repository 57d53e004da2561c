//! What pages have in common: the shell around them, their files, how values and charts are shown. Templates are
//! `src/templates/*.html`; everything is escaped where it is put in (SEC-51). The pages of one card have their types here,
//! all others beside their handlers, in `routes::pages`.

pub mod assets;
pub mod chart;
pub mod show;

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

/// A page that is in the menu.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    #[default]
    Overview,
    Connect,
    Keys,
    Usage,
    Sessions,
    AdminOverview,
    AdminUsers,
    AdminUsage,
    AdminCosts,
    AdminStreams,
    AdminJobs,
    AdminAudit,
    AdminHealth,
}

impl Place {
    pub fn href(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Connect => "/connect",
            Self::Keys => "/keys",
            Self::Usage => "/usage",
            Self::Sessions => "/sessions",
            Self::AdminOverview => "/admin",
            Self::AdminUsers => "/admin/users",
            Self::AdminUsage => "/admin/usage",
            Self::AdminCosts => "/admin/costs",
            Self::AdminStreams => "/admin/streams",
            Self::AdminJobs => "/admin/jobs",
            Self::AdminAudit => "/admin/audit",
            Self::AdminHealth => "/admin/health",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Connect => "Connect",
            Self::Keys => "API keys",
            Self::Usage => "Usage",
            Self::Sessions => "Sessions",
            Self::AdminOverview => "Everybody",
            Self::AdminUsers => "People",
            Self::AdminUsage => "All usage",
            Self::AdminCosts => "Prices",
            Self::AdminStreams => "Live streams",
            Self::AdminJobs => "Jobs",
            Self::AdminAudit => "Audit log",
            Self::AdminHealth => "Health",
        }
    }
}

/// All of them, in the order of the menu; the first are everybody's own.
const PLACES: [Place; 13] = [
    Place::Overview,
    Place::Connect,
    Place::Keys,
    Place::Usage,
    Place::Sessions,
    Place::AdminOverview,
    Place::AdminUsers,
    Place::AdminUsage,
    Place::AdminCosts,
    Place::AdminStreams,
    Place::AdminJobs,
    Place::AdminAudit,
    Place::AdminHealth,
];
const OWN: usize = 5;

impl Place {
    /// The place in the menu that a path is below.
    pub fn of(path: &str) -> Self {
        let below = |place: &&Self| {
            let rest = path.strip_prefix(place.href());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let nearest = PLACES.iter().filter(below).max_by_key(|place| place.href().len());
        nearest.copied().unwrap_or(Self::Overview)
    }
}

/// What stands around every page of somebody who is signed in.
#[derive(Debug, Default)]
pub struct Shell {
    pub place: Place,
    pub person: String,
    pub admin: bool,
    pub csrf_token: String,
    /// What was just done.
    pub notice: Option<&'static str>,
}

impl Shell {
    pub fn own(&self) -> impl Iterator<Item = Place> {
        PLACES.into_iter().take(OWN)
    }

    pub fn for_admins(&self) -> impl Iterator<Item = Place> {
        PLACES.into_iter().skip(OWN)
    }

    pub fn with_notice(self, notice: Option<&'static str>) -> Self {
        Self { notice, ..self }
    }
}

/// `/docs`: the API, to read and to try.
#[derive(Template)]
#[template(path = "docs.html")]
pub struct DocsPage;

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
    /// What to do about it.
    pub advice: &'a str,
    pub request_id: &'a str,
    /// Whether it is signing in that helps.
    pub sign_in: bool,
}

/// What was typed into a form that was not accepted because of who sent it.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Where it was sent, and is to be sent again.
    pub path: String,
    pub multipart: bool,
    /// A page to be led to after signing in.
    pub back: &'static str,
    pub fields: Vec<(String, String)>,
    /// Fields that are too large to be kept.
    pub left_out: Vec<String>,
    pub why: WhyKept,
}

/// Why a form is kept, and with what it may be sent again.
#[derive(Debug, Clone)]
pub enum WhyKept {
    /// Nobody is signed in any more.
    SignedOut,
    /// It is of a page from before this session.
    Older { person: String, csrf_token: String },
    /// The service could not do it; the token is the one that came with it.
    Failed { csrf_token: String },
}

/// A form is kept while somebody signs in again, or waits.
#[derive(Template)]
#[template(path = "kept.html")]
pub struct KeptPage<'a> {
    pub kept: &'a Kept,
    /// What went wrong, if it is [`WhyKept::Failed`].
    pub error: ErrorPage<'a>,
}

impl KeptPage<'_> {
    /// The fields that people fill in, with the names that they have in words.
    fn shown(&self) -> impl Iterator<Item = (String, &str)> {
        let filled = |(name, value): &&(String, String)| name != "form" && !value.is_empty();
        self.kept.fields.iter().filter(filled).map(|(name, value)| (in_words(name), value.as_str()))
    }
}

/// The name of a field as people read it: `expires_in_days` is `Expires in days`.
fn in_words(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}", letters.as_str().replace('_', " "))
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
