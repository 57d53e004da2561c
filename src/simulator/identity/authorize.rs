//! The authorisation endpoints of both surfaces: what is asked for, who consents, and the way back.
//!
//! A wrong client or redirect URI is told on a page: nobody is sent to an address which cannot be
//! trusted (RFC 6749, 4.1.2.1). Everything else is told to the client.

use chrono::{DateTime, Utc};
use url::Url;

use super::fault::Fault;
use super::grants::{Grants, SignIn, Surface};
use super::keys::random;
use super::page;
use super::person::Person;
use super::request::{Answer, Parameters, Request};
use super::world::{Faults, OTHER_ISSUER, World};

/// What the fault `error_with_html` says, over and over.
const HTML: &str = "<script>alert(\"simulated\")</script> ' & \u{fc} ";
/// Characters of it.
const HTML_LENGTH: usize = 5_000;

/// An authorisation request which may be granted.
struct Wish<'a> {
    surface: Surface,
    parameters: &'a Parameters,
    /// As it came, and parsed.
    redirect_uri: &'a str,
    target: Url,
    state: &'a str,
    scopes: Vec<String>,
}

/// What the client is told instead of a code.
struct Refusal {
    error: &'static str,
    description: &'static str,
}

fn refuse<T>(error: &'static str, description: &'static str) -> Result<T, Refusal> {
    Err(Refusal { error, description })
}

/// `GET`: a page to choose from; with `prompt=none` and a `login_hint` the answer at once.
pub(super) fn show(
    world: &World,
    grants: &mut Grants,
    request: &Request,
    surface: Surface,
    now: DateTime<Utc>,
) -> Answer {
    let wish = match read(world, &request.query, surface) {
        Ok(wish) => wish,
        Err(answer) => return answer,
    };
    if request.query.get("prompt") != Some("none") {
        return page::sign_in(world, request);
    }
    let people = world.people();
    let hint = request.query.get("login_hint");
    match hint.and_then(|hint| people.iter().find(|person| person.is(hint))) {
        Some(person) => decide(world, grants, &wish, Some(person), now),
        None => {
            let refusal = Refusal {
                error: "login_required",
                description: "nobody of that name is signed in",
            };
            wish.refused(world, refusal, world.faults(None))
        }
    }
}

/// `POST`: the form of that page. The request may also stay in the URL, so that a test can send
/// nothing but `person=SUBJECT` to where it was redirected.
pub(super) fn submit(
    world: &World,
    grants: &mut Grants,
    request: &Request,
    surface: Surface,
    now: DateTime<Utc>,
) -> Answer {
    if !request.is_form() {
        return page::error(415, "The request is not a form.");
    }
    let parameters = request.query.and(&request.form);
    let wish = match read(world, &parameters, surface) {
        Ok(wish) => wish,
        Err(answer) => return answer,
    };
    let subject = request.form.get("person").unwrap_or_default();
    decide(world, grants, &wish, world.person(subject).as_ref(), now)
}

/// Sends the browser back with a code for `person`, or with what the form wants instead.
fn decide(
    world: &World,
    grants: &mut Grants,
    wish: &Wish<'_>,
    person: Option<&Person>,
    now: DateTime<Utc>,
) -> Answer {
    let fault = match wish.parameters.get("fault").map(str::parse::<Fault>) {
        None => None,
        Some(Ok(fault)) if fault.fits_one_sign_in() => Some(fault),
        Some(_) => return page::error(400, "There is no such misbehaviour for one sign-in."),
    };
    let faults = world.faults(fault);
    if wish.parameters.get("deny").is_some() {
        let description = "The person denied the request.";
        return wish.refused(world, Refusal { error: "access_denied", description }, faults);
    }
    let Some(person) = person else {
        return page::error(400, "There is no such person.");
    };
    let answer = if faults.has(Fault::ErrorWithHtml) {
        let description: String = HTML.chars().cycle().take(HTML_LENGTH).collect();
        let pairs = [("error", "access_denied"), ("error_description", &description)];
        Answer::found(wish.callback(world, &pairs, faults)).outcome("access_denied")
    } else {
        let code = grants.code(wish.sign_in(person, fault, now), now);
        Answer::found(wish.callback(world, &[("code", &code)], faults))
    };
    answer.about(&person.subject, fault)
}

/// Reads and checks an authorisation request.
fn read<'a>(
    world: &World,
    parameters: &'a Parameters,
    surface: Surface,
) -> Result<Wish<'a>, Answer> {
    let repeated = parameters.repeated();
    let stranger = |what| Err(page::error(400, what));
    if parameters.get("client_id") != Some(&world.config().client_id)
        || repeated == Some("client_id")
    {
        return stranger("The client is unknown.");
    }
    let (Some(redirect_uri), true) =
        (parameters.get("redirect_uri"), repeated != Some("redirect_uri"))
    else {
        return stranger("The redirect URI is missing.");
    };
    let Some(target) = world.may_call_back(redirect_uri) else {
        return stranger("The redirect URI is not one of this client's.");
    };
    let state = parameters.get("state").unwrap_or_default();
    let scopes = scopes(parameters.get("scope").unwrap_or_default(), surface);
    let wish = Wish { surface, parameters, redirect_uri, target, state, scopes };
    match wish.check() {
        Ok(()) => Ok(wish),
        Err(refusal) => Err(wish.refused(world, refusal, world.faults(None))),
    }
}

/// GitHub's scopes are separated by commas, too.
fn scopes(text: &str, surface: Surface) -> Vec<String> {
    let apart = |letter: char| letter == ' ' || letter == ',' && surface == Surface::GitHub;
    text.split(apart).filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
}

impl Wish<'_> {
    /// Whether everything is there that must be, and nothing else is wished for.
    fn check(&self) -> Result<(), Refusal> {
        let get = |name| self.parameters.get(name);
        let openid = self.surface == Surface::OpenId;
        if self.parameters.repeated().is_some() {
            return refuse("invalid_request", "a parameter is there twice");
        }
        if self.state.is_empty() {
            return refuse("invalid_request", "state is missing"); // stricter than any standard
        }
        match get("response_type") {
            Some("code") => {}
            None if !openid => {} // GitHub knows no other
            None => return refuse("invalid_request", "response_type is missing"),
            Some(_) => return refuse("unsupported_response_type", "response_type must be code"),
        }
        if get("response_mode").is_some_and(|mode| mode != "query") {
            return refuse("invalid_request", "response_mode must be query");
        }
        if get("request").is_some() {
            return refuse("request_not_supported", "request objects are not supported");
        }
        if get("request_uri").is_some() {
            return refuse("request_uri_not_supported", "request objects are not supported");
        }
        if openid && self.scopes.is_empty() {
            return refuse("invalid_scope", "scope is missing");
        }
        match (get("code_challenge"), get("code_challenge_method")) {
            (Some(challenge), Some("S256")) if is_challenge(challenge) => {}
            (None, None) if !openid => {} // PKCE is offered there, not required
            (Some(_), Some("S256")) => {
                return refuse(
                    "invalid_request",
                    "code_challenge is not 43 to 128 URL-safe letters",
                );
            }
            (None, _) => return refuse("invalid_request", "code_challenge is missing"),
            (Some(_), _) => return refuse("invalid_request", "code_challenge_method must be S256"),
        }
        if openid && self.wants("openid") && get("nonce").is_none() {
            return refuse("invalid_request", "nonce is missing");
        }
        if get("prompt").is_some_and(|prompt| prompt.contains("none") && prompt != "none") {
            return refuse("invalid_request", "prompt=none goes with no other");
        }
        Ok(())
    }

    fn wants(&self, scope: &str) -> bool {
        self.scopes.iter().any(|known| known == scope)
    }

    fn sign_in(&self, person: &Person, fault: Option<Fault>, now: DateTime<Utc>) -> SignIn {
        let openid = self.surface == Surface::OpenId;
        let offline =
            self.wants("offline_access") || self.parameters.get("access_type") == Some("offline"); // Google's way
        SignIn {
            surface: self.surface,
            subject: person.subject.clone(),
            scopes: self.scopes.clone(),
            offline: openid && offline,
            nonce: self.parameters.get("nonce").map(str::to_owned),
            redirect_uri: self.redirect_uri.to_owned(),
            challenge: self.parameters.get("code_challenge").map(str::to_owned),
            fault,
            at: now,
        }
    }

    /// An error for the client.
    fn refused(&self, world: &World, refusal: Refusal, faults: Faults) -> Answer {
        let pairs = [("error", refusal.error), ("error_description", refusal.description)];
        Answer::found(self.callback(world, &pairs, faults)).outcome(refusal.error)
    }

    /// The redirect URI with `pairs`, `state` and, as RFC 9207 has it, `iss`; GitHub sends no `iss`.
    fn callback(&self, world: &World, pairs: &[(&str, &str)], faults: Faults) -> String {
        let mut target = self.target.clone();
        let mut query = target.query_pairs_mut();
        query.extend_pairs(pairs);
        if faults.has(Fault::WrongState) {
            query.append_pair("state", &random(32));
        } else if !faults.has(Fault::NoState) && !self.state.is_empty() {
            query.append_pair("state", self.state);
        }
        if faults.has(Fault::WrongIss) {
            query.append_pair("iss", OTHER_ISSUER);
        } else if self.surface == Surface::OpenId {
            query.append_pair("iss", world.issuer());
        }
        drop(query);
        target.into()
    }
}

/// The alphabet and length of RFC 7636, 4.2; verifiers have the same.
pub(super) fn is_challenge(text: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (43..=128).contains(&text.len()) && text.bytes().all(unreserved)
}
