//! What a client learns with an access token: userinfo, and GitHub's two addresses for the same.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::fault::Fault;
use super::grants::{Access, Grants, Surface};
use super::person::Person;
use super::request::{Answer, Request};
use super::world::{Faults, World};

/// `GET` and `POST /userinfo`.
pub(super) fn userinfo(
    world: &World,
    grants: &Grants,
    request: &Request,
    now: DateTime<Utc>,
) -> Answer {
    let Some(token) = request.authorization("bearer") else {
        return challenged(401, "no token", None);
    };
    let Some((access, person)) = holder(world, grants, token, Surface::OpenId, now) else {
        return challenged(401, "invalid_token", Some("invalid_token"));
    };
    if !access.allows("openid") {
        return challenged(403, "insufficient_scope", Some("insufficient_scope"));
    }
    let faults = world.faults(access.sign_in.fault);
    let mut claims = person.claims(&access.scopes, faults);
    let sub = if faults.has(Fault::UserinfoOtherSubject) {
        json!(format!("{}-other", person.subject))
    } else {
        person.sub(faults)
    };
    claims.insert("sub".to_owned(), sub);
    told(&access, &Value::Object(claims))
}

/// `GET /user`.
pub(super) fn github_user(
    world: &World,
    grants: &Grants,
    request: &Request,
    now: DateTime<Utc>,
) -> Answer {
    by_github(world, grants, request, now, |access, person, faults| {
        let user = json!({
            "id": person.number(),
            "login": person.login(),
            "type": "User",
            "name": person.told_name(faults),
            "email": null,
        });
        told(access, &user)
    })
}

/// `GET /user/emails`.
pub(super) fn github_emails(
    world: &World,
    grants: &Grants,
    request: &Request,
    now: DateTime<Utc>,
) -> Answer {
    by_github(world, grants, request, now, |access, person, faults| {
        if !access.allows("user:email") && !access.allows("user") {
            return github_error(404, "Not Found");
        }
        let Some((email, verified)) = person.told_email(faults) else {
            return told(access, &json!([]));
        };
        // Whoever takes the first address takes one which anybody could have entered.
        let entered = format!("{}@unverified.example", person.login());
        let mut address = json!({ "email": email, "primary": true, "visibility": "public" });
        if !verified.is_null() {
            address["verified"] = verified;
        }
        let first =
            json!({ "email": entered, "primary": false, "verified": false, "visibility": null });
        told(access, &json!([first, address]))
    })
}

/// What both of GitHub's addresses ask of a request.
fn by_github(
    world: &World,
    grants: &Grants,
    request: &Request,
    now: DateTime<Utc>,
    tell: impl FnOnce(&Access, &Person, Faults) -> Answer,
) -> Answer {
    if request.header("user-agent").is_none_or(str::is_empty) {
        let body = "Request forbidden by administrative rules. \
            Please make sure your request has a User-Agent header.\r\n";
        return Answer::new(403, "text/plain", body).outcome("no user agent");
    }
    let token = request.authorization("bearer").or_else(|| request.authorization("token"));
    let Some(token) = token else {
        return github_error(401, "Requires authentication");
    };
    match holder(world, grants, token, Surface::GitHub, now) {
        Some((access, person)) => tell(&access, &person, world.faults(access.sign_in.fault)),
        None => github_error(401, "Bad credentials"),
    }
}

/// Whose token it is, if it is live, of this surface, and they are still there.
fn holder(
    world: &World,
    grants: &Grants,
    token: &str,
    surface: Surface,
    now: DateTime<Utc>,
) -> Option<(Access, Person)> {
    let access = grants.access(token, now).filter(|access| access.sign_in.surface == surface)?;
    let person = world.person(&access.sign_in.subject)?;
    Some((access, person))
}

fn told(access: &Access, value: &Value) -> Answer {
    Answer::json(200, value)
        .with("cache-control", "no-store")
        .about(&access.sign_in.subject, access.sign_in.fault)
}

/// RFC 6750, 3: without a token there is no error to tell.
fn challenged(status: u16, outcome: &str, error: Option<&str>) -> Answer {
    let realm = "Bearer realm=\"simulated provider\"";
    let challenge = error.map_or_else(|| realm.to_owned(), |e| format!("{realm}, error=\"{e}\""));
    Answer::json(status, &json!({ "error": error }))
        .with("www-authenticate", challenge)
        .outcome(outcome)
}

fn github_error(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({ "message": message, "status": status.to_string() }))
        .outcome(message)
}
