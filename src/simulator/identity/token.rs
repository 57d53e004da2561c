//! The token endpoints of both surfaces, and revocation.

use std::rc::Rc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::authorize::is_challenge;
use super::fault::Fault;
use super::grants::{ACCESS_LIFE, CodeRefused, Grants, SignIn, Surface};
use super::id_token::Statement;
use super::keys::sha256;
use super::person::Person;
use super::request::{Answer, FORM, Request};
use super::world::World;

/// Why there is no token.
#[derive(Debug)]
enum Refused {
    InvalidRequest(&'static str),
    InvalidClient(&'static str),
    InvalidGrant(&'static str),
    InvalidScope,
    /// An `InvalidGrant` which GitHub has a word for.
    RedirectMismatch,
    UnsupportedGrantType,
    /// A fault's answer.
    Fault(Answer),
}

impl Refused {
    /// The status for OpenID clients, the codes of RFC 6749 and of GitHub, and a description.
    fn told(&self) -> (u16, &'static str, &'static str, &'static str) {
        match self {
            Self::InvalidRequest(what) => (400, "invalid_request", "invalid_request", what),
            Self::InvalidClient(what) => {
                (401, "invalid_client", "incorrect_client_credentials", what)
            }
            Self::InvalidGrant(what) => (400, "invalid_grant", "bad_verification_code", what),
            Self::InvalidScope => {
                (400, "invalid_scope", "invalid_scope", "more than was granted at first")
            }
            Self::RedirectMismatch => {
                let what = "redirect_uri is not that of the authorisation request";
                (400, "invalid_grant", "redirect_uri_mismatch", what)
            }
            Self::UnsupportedGrantType => {
                let what = "the grant type is not supported";
                (400, "unsupported_grant_type", "unsupported_grant_type", what)
            }
            Self::Fault(_) => (500, "server_error", "server_error", "simulated"),
        }
    }

    fn answer(self, surface: Surface, request: &Request) -> Answer {
        let (status, openid, github, description) = self.told();
        let (status, error) = match (self, surface) {
            (Self::Fault(answer), _) => return answer,
            (_, Surface::OpenId) => (status, openid),
            (_, Surface::GitHub) => (200, github),
        };
        let body = json!({ "error": error, "error_description": description });
        let answer = rendered(status, &body, surface, request).outcome(error);
        if status == 401 {
            answer.with("www-authenticate", "Basic realm=\"simulated provider\"")
        } else {
            answer
        }
    }
}

/// `POST /token` and `POST /login/oauth/access_token`.
pub(super) fn token(
    world: &World,
    grants: &mut Grants,
    request: &Request,
    surface: Surface,
    now: DateTime<Utc>,
) -> Answer {
    let granted = admit(world, request).and_then(|()| match request.form.get("grant_type") {
        Some("authorization_code") => by_code(world, grants, request, surface, now),
        None if surface == Surface::GitHub => by_code(world, grants, request, surface, now),
        Some("refresh_token") if surface == Surface::OpenId => {
            by_refresh_token(world, grants, request, now)
        }
        Some(_) => Err(Refused::UnsupportedGrantType),
        None => Err(Refused::InvalidRequest("grant_type is missing")),
    });
    match granted {
        Ok((body, sign_in)) => {
            rendered(200, &body, surface, request).about(&sign_in.subject, sign_in.fault)
        }
        Err(refused) => refused.answer(surface, request),
    }
}

/// `POST /revoke` (RFC 7009): an unknown token is as good as revoked.
pub(super) fn revoke(world: &World, grants: &mut Grants, request: &Request) -> Answer {
    let token = admit(world, request).and_then(|()| {
        request.form.get("token").ok_or(Refused::InvalidRequest("token is missing"))
    });
    match token {
        Ok(token) => {
            grants.revoke(token);
            Answer::new(200, "text/plain; charset=utf-8", "").with("cache-control", "no-store")
        }
        Err(refused) => refused.answer(Surface::OpenId, request),
    }
}

/// Checks the form of the request and who sends it: by exactly one of two ways.
fn admit(world: &World, request: &Request) -> Result<(), Refused> {
    if !request.is_form() {
        return Err(Refused::InvalidRequest("the request is not a form"));
    }
    if !request.query.is_empty() {
        return Err(Refused::InvalidRequest("there are parameters in the URL"));
    }
    if request.form.repeated().is_some() {
        return Err(Refused::InvalidRequest("a parameter is there twice"));
    }
    let (id, secret) = (request.form.get("client_id"), request.form.get("client_secret"));
    let (given_id, given_secret) = match (request.basic(), secret) {
        (Some(_), Some(_)) => {
            return Err(Refused::InvalidRequest("the client authenticates in two ways"));
        }
        (Some(Err(_)), None) => {
            return Err(Refused::InvalidClient("the authorisation header is not readable"));
        }
        (Some(Ok((name, password))), None) => {
            if id.is_some_and(|id| id != name) {
                return Err(Refused::InvalidRequest("client_id is not that of the header"));
            }
            (name, password)
        }
        (None, Some(secret)) => (id.unwrap_or_default().to_owned(), secret.to_owned()),
        (None, None) => return Err(Refused::InvalidClient("the client does not authenticate")),
    };
    let config = world.config();
    if given_id == config.client_id && given_secret == config.client_secret {
        Ok(())
    } else {
        Err(Refused::InvalidClient("the client is unknown or its secret is wrong"))
    }
}

type Granted = Result<(Value, Rc<SignIn>), Refused>;

fn by_code(
    world: &World,
    grants: &mut Grants,
    request: &Request,
    surface: Surface,
    now: DateTime<Utc>,
) -> Granted {
    let code = request.form.get("code").ok_or(Refused::InvalidRequest("code is missing"))?;
    let sign_in = grants.redeem(code, now).map_err(|refused| {
        Refused::InvalidGrant(match refused {
            CodeRefused::Unknown => "the code is unknown",
            CodeRefused::Expired => "the code has expired",
            CodeRefused::UsedBefore => "the code was used before; its tokens are revoked",
        })
    })?;
    if sign_in.surface != surface {
        return Err(Refused::InvalidGrant("the code is of another endpoint"));
    }
    match request.form.get("redirect_uri") {
        Some(uri) if uri == sign_in.redirect_uri => {}
        None if surface == Surface::GitHub => {}
        None => return Err(Refused::InvalidRequest("redirect_uri is missing")),
        Some(_) => return Err(Refused::RedirectMismatch),
    }
    let proved = match (&sign_in.challenge, request.form.get("code_verifier")) {
        (Some(challenge), Some(verifier)) => {
            is_challenge(verifier) && sha256(verifier.as_bytes()) == *challenge
        }
        (None, None) => true,
        _ => false, // also a verifier without a challenge: RFC 9700, 2.1.1
    };
    if !proved {
        return Err(Refused::InvalidGrant("code_verifier is missing or wrong"));
    }
    let person = still_there(world, &sign_in)?;
    fail(world, &sign_in, &[Fault::TokenError, Fault::TokenNotJson])?;
    let (scopes, nonce) = (sign_in.scopes.clone(), sign_in.nonce.as_deref());
    Ok((issue(world, grants, &sign_in, &person, scopes, nonce, now), sign_in))
}

fn by_refresh_token(
    world: &World,
    grants: &mut Grants,
    request: &Request,
    now: DateTime<Utc>,
) -> Granted {
    let missing = Refused::InvalidRequest("refresh_token is missing");
    let presented = request.form.get("refresh_token").ok_or(missing)?;
    let unknown = Refused::InvalidGrant("the refresh token is unknown or was used");
    let sign_in = grants.refreshable(presented).ok_or(unknown)?;
    let person = still_there(world, &sign_in)?;
    let narrowed = request.form.get("scope").map(|text| text.split(' ').map(str::to_owned));
    let scopes: Vec<_> = narrowed.map_or_else(|| sign_in.scopes.clone(), Iterator::collect);
    if !scopes.iter().all(|scope| sign_in.scopes.contains(scope)) {
        return Err(Refused::InvalidScope);
    }
    let faults = [Fault::RefreshTemporarilyFails, Fault::TokenError, Fault::TokenNotJson];
    fail(world, &sign_in, &faults)?; // before anything is used up
    grants.spend(presented);
    Ok((issue(world, grants, &sign_in, &person, scopes, None, now), sign_in))
}

fn still_there(world: &World, sign_in: &SignIn) -> Result<Person, Refused> {
    let gone = Refused::InvalidGrant("the account is gone");
    world.person(&sign_in.subject).ok_or(gone)
}

/// Fails if one of `faults` is in effect.
fn fail(world: &World, sign_in: &SignIn, faults: &[Fault]) -> Result<(), Refused> {
    let mut in_effect = world.faults(sign_in.fault).iter();
    let Some(fault) = in_effect.find(|fault| faults.contains(fault)) else { return Ok(()) };
    let answer = match fault {
        Fault::TokenNotJson => Answer::html(200, "<!doctype html><title>Welcome</title>"),
        Fault::TokenError => Answer::json(500, &json!({ "error": "server_error" })),
        _ => Answer::json(503, &json!({ "error": "temporarily_unavailable" }))
            .with("retry-after", "1"),
    };
    Err(Refused::Fault(answer.outcome(fault.name()).about(&sign_in.subject, sign_in.fault)))
}

/// Makes the tokens, and the answer which hands them over.
fn issue(
    world: &World,
    grants: &mut Grants,
    sign_in: &Rc<SignIn>,
    person: &Person,
    scopes: Vec<String>,
    nonce: Option<&str>,
    now: DateTime<Utc>,
) -> Value {
    let access_token = grants.access_token(sign_in, scopes.clone(), now);
    if sign_in.surface == Surface::GitHub {
        let scope = scopes.join(",");
        return json!({ "access_token": access_token, "token_type": "bearer", "scope": scope });
    }
    let mut body = json!({
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": ACCESS_LIFE.num_seconds(),
        "scope": scopes.join(" "),
    });
    if sign_in.offline {
        body["refresh_token"] = json!(grants.refresh_token(sign_in));
    }
    let statement = Statement {
        person,
        scopes: &scopes,
        nonce,
        signed_in_at: sign_in.at,
        access_token: &access_token,
        now,
        faults: world.faults(sign_in.fault),
    };
    if scopes.iter().any(|scope| scope == "openid")
        && let Some(id_token) = statement.token(world)
    {
        body["id_token"] = json!(id_token);
    }
    body
}

/// JSON; from GitHub a form, unless the client accepts JSON.
fn rendered(status: u16, body: &Value, surface: Surface, request: &Request) -> Answer {
    let accepts = request.header("accept").unwrap_or_default();
    let answer = if surface == Surface::OpenId || accepts.contains("application/json") {
        Answer::json(status, body)
    } else {
        let members = body.as_object().into_iter().flatten();
        let pairs = members.map(|(name, value)| (name, value.as_str().unwrap_or_default()));
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        Answer::new(status, FORM, form)
    };
    answer.with("cache-control", "no-store").with("pragma", "no-cache")
}
