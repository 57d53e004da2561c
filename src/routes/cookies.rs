//! The two cookies that browsers hold: a session, and a sign-in under way (SEC-26).

use actix_web::{
    HttpRequest,
    cookie::{Cookie, SameSite, time::Duration},
};

use crate::auth::sign_in::PENDING_MINUTES;

/// Over https the browser itself sees to it that nobody else can set them (`__Host-`).
const fn session_name(secure: bool) -> &'static str {
    if secure { "__Host-bedrock_session" } else { "bedrock_session" }
}

const fn pending_name(secure: bool) -> &'static str {
    if secure { "__Host-bedrock_login" } else { "bedrock_login" }
}

/// The session that the browser sent.
pub fn session(request: &HttpRequest, secure: bool) -> Option<String> {
    request.cookie(session_name(secure)).map(|cookie| cookie.value().to_owned())
}

/// The sign-in that the browser left for.
pub fn pending(request: &HttpRequest, secure: bool) -> Option<String> {
    request.cookie(pending_name(secure)).map(|cookie| cookie.value().to_owned())
}

/// Gives the browser a session. It lasts until the browser is closed, or the server ends it.
pub fn set_session(value: String, secure: bool) -> Cookie<'static> {
    held(session_name(secure), value, secure)
}

/// Gives the browser a sign-in to come back with.
pub fn set_pending(value: String, secure: bool) -> Cookie<'static> {
    let mut cookie = held(pending_name(secure), value, secure);
    cookie.set_max_age(Duration::minutes(PENDING_MINUTES));
    cookie
}

/// Takes the session away.
pub fn clear_session(secure: bool) -> Cookie<'static> {
    gone(session_name(secure), secure)
}

/// Takes the sign-in away that was finished.
pub fn clear_pending(secure: bool) -> Cookie<'static> {
    gone(pending_name(secure), secure)
}

fn held(name: &'static str, value: String, secure: bool) -> Cookie<'static> {
    let cookie = Cookie::build(name, value).path("/").http_only(true).secure(secure);
    // Lax: the way back from the provider is a navigation from another site.
    cookie.same_site(SameSite::Lax).finish()
}

fn gone(name: &'static str, secure: bool) -> Cookie<'static> {
    let mut cookie = held(name, String::new(), secure);
    cookie.set_max_age(Duration::ZERO);
    cookie
}
