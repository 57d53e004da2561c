//! What is kept of a sign-in, and which one is meant.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use super::ServiceUrl;

/// A token from so far in the future was made under another clock.
const CLOCK_SLACK: TimeDelta = TimeDelta::seconds(60);
/// For so long the service's word on an access token counts. Short enough that a program that runs `token` again soon
/// gets a new one, long enough that most runs need no network.
const CHECK_COUNTS: TimeDelta = TimeDelta::seconds(60);

/// What a sign-in, or a refresh, gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tokens {
    #[serde(serialize_with = "expose")]
    pub access_token: SecretString,
    /// When the access token was asked for; without it, how long it lives is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_issued_at: Option<DateTime<Utc>>,
    pub access_expires_at: DateTime<Utc>,
    #[serde(serialize_with = "expose")]
    pub refresh_token: SecretString,
    pub refresh_expires_at: DateTime<Utc>,
    /// When the service last gave or took the access token; without it, that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<DateTime<Utc>>,
}

fn expose<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

impl Tokens {
    /// Whether the access token is good at all.
    pub fn lives(&self, now: DateTime<Utc>) -> bool {
        self.access_expires_at > now
    }

    /// Whether the access token lives `at_least` longer, or half of its life if that is less.
    pub fn is_fresh(&self, at_least: TimeDelta, now: DateTime<Utc>) -> bool {
        let life = self.access_issued_at.map(|issued| self.access_expires_at - issued);
        let at_least = life.map_or(at_least, |life| at_least.min(life / 2));
        let from_the_future = self.access_issued_at.is_some_and(|at| at - now > CLOCK_SLACK);
        self.lives(now) && self.access_expires_at - now >= at_least && !from_the_future
    }

    /// Whether the service found the access token good so recently that it need not be asked.
    pub fn was_checked(&self, now: DateTime<Utc>) -> bool {
        self.checked_at.is_some_and(|at| now - at <= CHECK_COUNTS && at - now <= CLOCK_SLACK)
    }

    /// Whether this is the access token, and not one from before or after a refresh.
    pub fn has(&self, access_token: &SecretString) -> bool {
        self.access_token.expose_secret() == access_token.expose_secret()
    }
}

/// Everything in the file.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Services(BTreeMap<ServiceUrl, Tokens>);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    #[error("not signed in: bedrock_proxy login URL")]
    None,
    #[error("not signed in to {0}: bedrock_proxy login {0}")]
    Unknown(ServiceUrl),
    #[error("signed in to several services, name one with --url: {0}")]
    Several(String),
}

impl Services {
    /// The service called `named`, or the only one.
    ///
    /// # Errors
    /// That there is none, or that there are several and none was named.
    pub fn choose(
        &self,
        named: Option<&ServiceUrl>,
    ) -> Result<(&ServiceUrl, &Tokens), ChoiceError> {
        if let Some(url) = named {
            return self.0.get_key_value(url).ok_or_else(|| ChoiceError::Unknown(url.clone()));
        }
        let mut all = self.0.iter();
        match (all.next(), all.next()) {
            (None, _) => Err(ChoiceError::None),
            (Some(only), None) => Ok(only),
            _ => {
                let names: Vec<String> = self.0.keys().map(ToString::to_string).collect();
                Err(ChoiceError::Several(names.join(", ")))
            }
        }
    }

    /// Puts `tokens` in; answers those that were there.
    pub fn insert(&mut self, url: ServiceUrl, tokens: Tokens) -> Option<Tokens> {
        self.0.insert(url, tokens)
    }

    /// Notes that the service took this access token; answers whether that is news.
    pub fn note_checked(
        &mut self,
        url: &ServiceUrl,
        access_token: &SecretString,
        at: DateTime<Utc>,
    ) -> bool {
        let Some(tokens) = self.0.get_mut(url).filter(|tokens| tokens.has(access_token)) else {
            return false;
        };
        // Of many processes that asked at once, one writes.
        let news = !tokens.was_checked(at);
        if news {
            tokens.checked_at = Some(at);
        }
        news
    }

    pub fn remove(&mut self, url: &ServiceUrl) -> Option<Tokens> {
        self.0.remove(url)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    pub fn url(host: &str) -> ServiceUrl {
        format!("https://{host}").parse().unwrap()
    }

    /// Tokens of an hour's life, from 09:00.
    pub fn tokens(access: &str) -> Tokens {
        Tokens {
            access_token: access.into(),
            access_issued_at: Some(time("2026-11-21T09:00:00Z")),
            access_expires_at: time("2026-11-21T10:00:00Z"),
            refresh_token: format!("SSOR_{access}").into(),
            refresh_expires_at: time("2026-12-21T09:00:00Z"),
            checked_at: Some(time("2026-11-21T09:00:00Z")),
        }
    }

    pub fn services(hosts: &[&str]) -> Services {
        let mut services = Services::default();
        for host in hosts {
            services.insert(url(host), tokens(host));
        }
        services
    }

    #[test]
    fn the_only_service_needs_no_name() {
        let one = services(&["a.example.com"]);
        assert_eq!(one.choose(None).unwrap().0, &url("a.example.com"));

        let two = services(&["b.example.com", "a.example.com"]);
        assert_eq!(two.choose(Some(&url("b.example.com"))).unwrap().0, &url("b.example.com"));
        assert_eq!(
            two.choose(None).unwrap_err().to_string(),
            "signed in to several services, name one with --url: https://a.example.com, https://b.example.com"
        );
        let unknown = two.choose(Some(&url("c.example.com"))).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "not signed in to https://c.example.com: bedrock_proxy login https://c.example.com"
        );
    }

    #[test]
    fn signing_in_again_gives_the_former_tokens_back() {
        let mut services = services(&["a.example.com", "b.example.com"]);

        let former = services.insert(url("a.example.com"), tokens("new")).unwrap();

        assert_eq!(former.access_token.expose_secret(), "a.example.com");
        assert!(services.remove(&url("a.example.com")).is_some());
        assert!(services.remove(&url("a.example.com")).is_none());
        assert_eq!(services.choose(None).unwrap().0, &url("b.example.com"));
    }

    #[test]
    fn a_token_is_fresh_until_the_least_it_must_live() {
        let tokens = tokens("a");
        let fresh = |at: &str, least: i64| tokens.is_fresh(TimeDelta::seconds(least), time(at));

        assert!(fresh("2026-11-21T09:00:00Z", 300));
        assert!(fresh("2026-11-21T09:55:00Z", 300));
        assert!(!fresh("2026-11-21T09:55:01Z", 300));
        assert!(fresh("2026-11-21T09:59:59Z", 0));
        assert!(!fresh("2026-11-21T10:00:00Z", 0));
        assert!(!fresh("2026-11-21T11:00:00Z", 300));
    }

    #[test]
    fn no_token_has_to_live_longer_than_half_of_its_life() {
        let mut tokens = tokens("a");
        let day = TimeDelta::days(1);
        assert!(tokens.is_fresh(day, time("2026-11-21T09:30:00Z")));
        assert!(!tokens.is_fresh(day, time("2026-11-21T09:30:01Z")));

        tokens.access_issued_at = None;
        assert!(!tokens.is_fresh(day, time("2026-11-21T09:30:00Z")));
        assert!(tokens.is_fresh(TimeDelta::seconds(300), time("2026-11-21T09:30:00Z")));
    }

    #[test]
    fn a_token_from_the_future_is_not_believed() {
        let tokens = tokens("a");

        assert!(tokens.is_fresh(TimeDelta::zero(), time("2026-11-21T08:59:30Z")));
        assert!(!tokens.is_fresh(TimeDelta::zero(), time("2026-11-20T09:00:00Z")));
    }

    #[test]
    fn the_service_s_word_counts_for_a_minute() {
        let mut tokens = tokens("a");
        let counts = |tokens: &Tokens, at: &str| tokens.was_checked(time(at));
        assert!(counts(&tokens, "2026-11-21T09:01:00Z"));
        assert!(!counts(&tokens, "2026-11-21T09:01:01Z"));
        assert!(counts(&tokens, "2026-11-21T08:59:30Z"));
        assert!(!counts(&tokens, "2026-11-20T09:00:00Z"), "from the future");

        tokens.checked_at = None;
        assert!(!counts(&tokens, "2026-11-21T09:00:00Z"));
    }

    #[test]
    fn a_check_is_noted_of_the_token_that_was_checked_and_once() {
        let mut services = services(&["a.example.com"]);
        let at = time("2026-11-21T09:30:00Z");
        let mut note =
            |host: &str, token: &str| services.note_checked(&url(host), &token.into(), at);

        assert!(!note("a.example.com", "the former"));
        assert!(!note("b.example.com", "a.example.com"));
        assert!(note("a.example.com", "a.example.com"));
        assert!(!note("a.example.com", "a.example.com"), "another process was first");
        assert_eq!(services.choose(None).unwrap().1.checked_at, Some(at));
    }

    #[test]
    fn debug_shows_no_token() {
        let shown = format!("{:?}", services(&["host.example.com"]));

        assert!(!shown.contains("SSOR_"), "{shown}");
    }
}
