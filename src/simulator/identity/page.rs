//! The pages which a person sees: whom to sign in as, and what is wrong with a request.

use askama::Template;

use super::fault::Fault;
use super::keys::random;
use super::person::Person;
use super::request::{Answer, Request};
use super::world::World;

/// What the form itself asks.
const QUESTIONS: [&str; 3] = ["person", "fault", "deny"];
/// Added to every page.
const HEADERS: [(&str, &str); 3] = [
    ("cache-control", "no-store"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];

#[derive(Template)]
#[template(path = "simulator/sign_in.html")]
struct SignInPage<'a> {
    /// Lets the page's own style through its policy.
    style: &'a str,
    /// Where the form goes.
    action: &'a str,
    client: &'a str,
    people: &'a [Person],
    /// The request, to be sent again.
    parameters: Vec<&'a (String, String)>,
    faults: Vec<Fault>,
}

#[derive(Template)]
#[template(path = "simulator/error.html")]
struct ErrorPage<'a> {
    style: &'a str,
    what: &'a str,
}

/// The page which asks who signs in.
pub(super) fn sign_in(world: &World, request: &Request) -> Answer {
    let (style, asked) = (random(16), request.query.pairs().iter());
    let page = SignInPage {
        style: &style,
        action: &request.path,
        client: &world.config().client_id,
        people: &world.people(),
        parameters: asked.filter(|(name, _)| !QUESTIONS.contains(&name.as_str())).collect(),
        faults: Fault::ALL.iter().copied().filter(|fault| fault.fits_one_sign_in()).collect(),
    };
    finish(200, page.render(), &style)
}

/// What is wrong, for people only.
pub(super) fn error(status: u16, what: &str) -> Answer {
    let style = random(16);
    finish(status, ErrorPage { style: &style, what }.render(), &style).outcome("error page")
}

/// `form-action` is left out on purpose: browsers apply it to the redirect after the form, too.
fn finish(status: u16, page: askama::Result<String>, style: &str) -> Answer {
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{style}'; base-uri 'none'; frame-ancestors 'none'"
    );
    let answer = match page {
        Ok(page) => Answer::html(status, page),
        Err(error) => Answer::new(500, "text/plain; charset=utf-8", error.to_string()),
    };
    let answer = answer.with("content-security-policy", policy);
    HEADERS.iter().fold(answer, |answer, (name, value)| answer.with(name, *value))
}
