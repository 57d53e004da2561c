//! What all requests share: the settings, who there is, which keys, which fault, the ledger.
//!
//! The owner of an [`IdentityProvider`](super::IdentityProvider) swaps people, keys and fault from
//! its own thread. Codes and tokens are not here: they belong to the server's thread.

use std::sync::Arc;

use arc_swap::ArcSwap;
use url::{Host, Url};

use super::IdentityConfig;
use super::fault::Fault;
use super::keys::Keys;
use super::ledger::IdentityLedger;
use super::person::Person;

/// The issuer which is never right.
pub(super) const OTHER_ISSUER: &str = "https://other-provider.example";
/// Where the callbacks of an unnamed client begin.
const CALLBACKS: &str = "/auth/callback/";

/// The faults in effect for a request: the provider's, and the sign-in's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults([Option<Fault>; 2]);

impl Faults {
    pub(super) fn iter(self) -> impl Iterator<Item = Fault> {
        self.0.into_iter().flatten()
    }

    pub(super) fn has(self, fault: Fault) -> bool {
        self.0.contains(&Some(fault))
    }
}

#[derive(Debug)]
pub(super) struct World {
    config: IdentityConfig,
    issuer: String,
    people: ArcSwap<Vec<Person>>,
    keys: ArcSwap<Keys>,
    fault: ArcSwap<Option<Fault>>,
    ledger: IdentityLedger,
}

impl World {
    pub(super) fn new(mut config: IdentityConfig, issuer: String) -> Self {
        let people = std::mem::take(&mut config.people); // they live in one place only
        Self {
            config,
            issuer,
            people: ArcSwap::from_pointee(people),
            keys: ArcSwap::new(Keys::first()),
            fault: ArcSwap::default(),
            ledger: IdentityLedger::default(),
        }
    }

    pub(super) fn config(&self) -> &IdentityConfig {
        &self.config
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn ledger(&self) -> &IdentityLedger {
        &self.ledger
    }

    pub(super) fn keys(&self) -> Arc<Keys> {
        self.keys.load_full()
    }

    pub(super) fn rotate_keys(&self) {
        self.keys.store(Arc::new(Keys::generate()));
    }

    pub(super) fn people(&self) -> Arc<Vec<Person>> {
        self.people.load_full()
    }

    pub(super) fn person(&self, subject: &str) -> Option<Person> {
        self.people.load().iter().find(|person| person.subject == subject).cloned()
    }

    pub(super) fn change_people(&self, change: impl Fn(&mut Vec<Person>)) {
        self.people.rcu(|people| {
            let mut people = Vec::clone(people);
            change(&mut people);
            people
        });
    }

    pub(super) fn misbehave(&self, fault: Option<Fault>) {
        self.fault.store(Arc::new(fault));
    }

    /// The provider's own fault.
    pub(super) fn fault(&self) -> Option<Fault> {
        **self.fault.load()
    }

    /// The provider's fault and that of a sign-in.
    pub(super) fn faults(&self, of_sign_in: Option<Fault>) -> Faults {
        Faults([self.fault(), of_sign_in])
    }

    /// Whether the client may be called back there: at a registered URI, compared as text (RFC 9700,
    /// 2.1). If none is registered, at any callback of a service on this machine.
    pub(super) fn may_call_back(&self, uri: &str) -> Option<Url> {
        let parsed = Url::parse(uri).ok()?;
        let registered = &self.config.redirect_uris;
        if !registered.is_empty() {
            return registered.iter().any(|known| known == uri).then_some(parsed);
        }
        let local = match parsed.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.to_string() == "127.0.0.1",
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        let plain = matches!(parsed.scheme(), "http" | "https")
            && parsed.username().is_empty()
            && parsed.password().is_none()
            && parsed.query().is_none()
            && parsed.fragment().is_none();
        let callback = parsed.path().strip_prefix(CALLBACKS).is_some_and(|rest| !rest.is_empty());
        (local && plain && callback).then_some(parsed)
    }
}
