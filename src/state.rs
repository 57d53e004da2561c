//! What every handler may look at: limits, the service's condition, and one worker's own tools.

use std::{
    cell::Cell,
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    actors::Actors,
    anthropic::{learned::Learned, models::Models, rules::Rules},
    auth::{keys::Keys, policy::CurrentPolicy, providers::Provider, sign_in},
    bedrock::Bedrock,
    cache::TypedCache,
    db::Pool,
    health::Health,
    jobs,
    limits::{Limits, Notes},
    settings::{self, ForwardedHeader, Settings, oauth::Kind},
    telemetry::Metrics,
    usage::{call::Desk, journal::Directory},
};

/// Shared by all workers.
pub struct Shared {
    pub actors: Actors,
    pub pool: Pool,
    pub cache: TypedCache,
    pub metrics: Metrics,
    pub health: Health,
    pub gate: Gate,
    pub journal: Option<Arc<Directory>>,
    pub server: settings::Server,
    pub keys: Arc<Keys>,
    pub jobs: Arc<jobs::Rules>,
    pub sign_in: SignIn,
    pub api_keys: settings::ApiKeys,
    pub limits: Limits,
    pub notes: Notes,
    /// Whether calls are refused while the journal cannot take them.
    pub strict: bool,
    /// Set at the start of a shutdown: readiness is off.
    pub draining: AtomicBool,
    /// Set once no further request may keep its connection.
    pub closing: AtomicBool,
    /// Begins anywhere: the numbers of several instances, and of one that was started again, are no others'.
    next_stream: AtomicU64,
    pub started: Instant,
    /// Hosts accepted on pages, /api and /auth, lower-case; empty = any.
    pub hosts: Vec<String>,
}

/// What the sign-in needs to know besides who may come in.
pub struct SignIn {
    pub rules: sign_in::Rules,
    pub offers: Vec<Offer>,
    /// Without a slash at its end.
    pub public_url: String,
    /// Cookies go over https alone.
    pub secure: bool,
}

/// An identity provider, as the sign-in page offers it.
pub struct Offer {
    pub name: String,
    pub display_name: String,
    pub kind: Kind,
}

impl SignIn {
    fn new(settings: &Settings, policy: CurrentPolicy) -> Self {
        let enabled = settings.oauth.enabled().map(|(name, given)| Provider::new(name, given));
        let offer = |provider: Provider| Offer {
            name: provider.name,
            display_name: provider.display_name,
            kind: provider.kind,
        };
        let public_url = settings.server.public_url();
        Self {
            rules: sign_in::Rules::new(settings, policy),
            offers: enabled.map(offer).collect(),
            secure: public_url.starts_with("https://"),
            public_url,
        }
    }

    /// Where a provider sends browsers back to (SEC-33): from the settings, never from a request.
    pub fn redirect_uri(&self, provider: &str) -> String {
        format!("{}/auth/callback/{provider}", self.public_url)
    }
}

/// One worker's tools; they stay on its thread.
pub struct Worker {
    pub bedrock: Bedrock,
    pub messages: Arc<Messages>,
    pub desk: Rc<Desk>,
    pub shared: Arc<Shared>,
    /// Cancelled when calls that do not stream have had their time at shutdown.
    pub cut: CancellationToken,
    pub on_disconnect: settings::OnDisconnect,
    /// Streams being read to their end without a client, in this worker.
    pub drains: Rc<Cell<usize>>,
}

/// What the Messages API needs to know of models.
pub struct Messages {
    pub models: Models,
    pub rules: Rules,
    pub learned: Learned,
    /// How long the head of a stream waits for the first event.
    pub hold: Duration,
    pub ping: Duration,
}

impl Messages {
    /// `region` is the service's own, as it was resolved.
    pub fn new(settings: &Settings, region: &str) -> Self {
        let Settings { anthropic, models, aws, .. } = settings;
        Self {
            models: Models::new(models, &aws.region_prefix_mappings, region),
            rules: Rules::new(models, anthropic),
            learned: Learned::new(Duration::from_secs(models.learn_for_seconds)),
            hold: Duration::from_secs(anthropic.first_event_hold_seconds),
            ping: Duration::from_secs(anthropic.ping_interval_seconds),
        }
    }
}

impl Shared {
    #[expect(
        clippy::too_many_arguments,
        reason = "startup makes each of them, and this takes them all"
    )]
    pub fn new(
        settings: &Settings,
        actors: Actors,
        pool: Pool,
        cache: TypedCache,
        metrics: Metrics,
        health: Health,
        journal: Option<Arc<Directory>>,
        keys: Arc<Keys>,
        jobs: Arc<jobs::Rules>,
    ) -> Self {
        let server = settings.server.clone();
        let public = server.public_url.as_deref().and_then(|url| url.split_once("://"));
        let public = public.map(|(_, host)| host.trim_end_matches('/').to_owned());
        let hosts = server
            .allowed_hosts
            .iter()
            .cloned()
            .chain(public)
            .map(|host| host.to_ascii_lowercase());
        let limits = Limits::new(&settings.rate_limits, cache.clone());
        let sign_in = SignIn::new(settings, actors.policy.clone());
        Self {
            actors,
            pool,
            cache,
            metrics,
            health,
            gate: Gate::new(&server.limits),
            journal,
            keys,
            jobs,
            sign_in,
            api_keys: settings.api_keys.clone(),
            limits,
            notes: Notes::default(),
            strict: settings.usage.on_full == settings::OnFull::Strict,
            draining: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            next_stream: AtomicU64::new(Uuid::new_v4().as_u64_pair().0),
            started: Instant::now(),
            hosts: hosts.collect(),
            server,
        }
    }

    pub fn next_stream_id(&self) -> u64 {
        self.next_stream.fetch_add(1, SeqCst)
    }
}

/// The client's address: the peer's, or what trusted proxies say of it (SEC-59): the right-most address of their header
/// that is not a trusted proxy. `lines` are all its lines, in order.
pub fn client_address<'a>(
    peer: IpAddr,
    header: ForwardedHeader,
    lines: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &[IpNet],
) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut nearest = peer.to_canonical();
    for hop in lines.rev().flat_map(|line| line.rsplit(',')) {
        if !is_trusted(&nearest) {
            break;
        }
        let named = match header {
            ForwardedHeader::XForwardedFor => Some(hop.trim()),
            ForwardedHeader::Forwarded => hop.split(';').find_map(|pair| {
                let (name, value) = pair.trim().split_once('=')?;
                name.eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
            }),
        };
        let Some(address) = named.and_then(read_address) else { break };
        nearest = address.to_canonical();
    }
    nearest
}

/// An address, perhaps with a port; IPv6 perhaps in brackets.
fn read_address(text: &str) -> Option<IpAddr> {
    let address = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    address().or_else(with_port).or_else(bare)
}

/// Counts inference calls in flight and the bytes they hold, and refuses beyond the caps.
pub struct Gate {
    calls: AtomicUsize,
    /// Those of `calls` whose answer streams: the StreamSupervisor waits for them.
    streams: AtomicUsize,
    bytes: AtomicUsize,
    most_calls: AtomicUsize,
    most_bytes: AtomicUsize,
}

impl Gate {
    fn new(limits: &settings::Limits) -> Self {
        Self {
            calls: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            most_calls: AtomicUsize::new(limits.in_flight_requests),
            most_bytes: AtomicUsize::new(limits.in_flight_bytes),
        }
    }

    /// Other caps from now on; what is in flight stays.
    pub fn set(&self, limits: &settings::Limits) {
        self.most_calls.store(limits.in_flight_requests, SeqCst);
        self.most_bytes.store(limits.in_flight_bytes, SeqCst);
    }

    /// Counts more bytes, unless they were too many.
    fn hold(&self, more: usize) -> bool {
        let fits = self.bytes.fetch_add(more, SeqCst) + more <= self.most_bytes.load(SeqCst);
        if !fits {
            self.bytes.fetch_sub(more, SeqCst);
        }
        fits
    }

    /// Calls in flight that do not stream.
    pub fn plain_calls(&self) -> usize {
        self.calls.load(SeqCst).saturating_sub(self.streams.load(SeqCst))
    }

    /// Lets a call in; `None` if there are too many.
    pub fn enter(shared: &Arc<Shared>) -> Option<Admission> {
        let gate = &shared.gate;
        if gate.calls.fetch_add(1, SeqCst) >= gate.most_calls.load(SeqCst) {
            gate.calls.fetch_sub(1, SeqCst);
            return None;
        }
        shared.metrics.calls_in_flight.inc();
        Some(Admission { shared: shared.clone(), bytes: 0, stream: false })
    }

    /// Waits until no call is left that does not stream. Answers how many are, when the time is over.
    pub async fn plain_calls_end(&self, within: Duration) -> usize {
        const LOOK: Duration = Duration::from_millis(10);
        let none_left = async {
            while self.plain_calls() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(within, none_left).await {
            Ok(()) => 0,
            Err(_elapsed) => self.plain_calls(),
        }
    }
}

/// A call's place in the [`Gate`], given back when dropped.
pub struct Admission {
    shared: Arc<Shared>,
    bytes: usize,
    stream: bool,
}

impl Admission {
    /// Holds `more` bytes; false if all calls together would hold too many.
    pub fn hold(&mut self, more: usize) -> bool {
        let fits = self.shared.gate.hold(more);
        self.bytes += if fits { more } else { 0 };
        fits
    }

    /// Holds `bytes` in all, instead of what it held; false, and no change, if all calls together would hold too many.
    pub fn holds(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.bytes || self.hold(bytes - self.bytes);
        if bytes < self.bytes {
            self.shared.gate.bytes.fetch_sub(self.bytes - bytes, SeqCst);
            self.bytes = bytes;
        }
        fits
    }

    /// From here on the call is a live stream.
    pub fn becomes_stream(&mut self) {
        if !std::mem::replace(&mut self.stream, true) {
            self.shared.gate.streams.fetch_add(1, SeqCst);
        }
    }
}

/// Bytes of a small body, given back when dropped. It is no call: those are counted apart.
pub struct Held {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Held {
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: shared.clone(), bytes: 0 }
    }

    /// Holds `more` bytes; false if all together would hold too many.
    pub fn hold(&mut self, more: usize) -> bool {
        let fits = self.shared.gate.hold(more);
        self.bytes += if fits { more } else { 0 };
        fits
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.gate.bytes.fetch_sub(self.bytes, SeqCst);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let gate = &self.shared.gate;
        gate.bytes.fetch_sub(self.bytes, SeqCst);
        if self.stream {
            gate.streams.fetch_sub(1, SeqCst);
        }
        gate.calls.fetch_sub(1, SeqCst);
        self.shared.metrics.calls_in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUSTED: fn() -> Vec<IpNet> =
        || vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];

    #[test]
    fn only_trusted_proxies_are_believed_about_the_client() {
        for (peer, lines, wanted) in [
            ("192.0.2.1", &["1.2.3.4"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4, 10.9.9.9"], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4", "10.9.9.9"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, junk"], "10.0.0.1"),
            ("10.0.0.1", &["10.1.1.1"], "10.1.1.1"),
            ("10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            ("::1", &["2001:db8::1"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
        ] {
            let header = ForwardedHeader::XForwardedFor;
            let seen =
                client_address(peer.parse().unwrap(), header, lines.iter().copied(), &TRUSTED());

            assert_eq!(seen, wanted.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        }
        let nobody = client_address(
            "10.0.0.1".parse().unwrap(),
            ForwardedHeader::XForwardedFor,
            ["1.2.3.4"].into_iter(),
            &[],
        );
        assert_eq!(nobody, "10.0.0.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn the_standard_header_is_read_as_its_rfc_says() {
        for (line, wanted) in [
            ("for=1.2.3.4", "1.2.3.4"),
            ("For=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("for=\"[2001:db8::1]\"; proto=http; by=10.0.0.2", "2001:db8::1"),
            ("for=6.6.6.6, for=1.2.3.4;proto=https", "1.2.3.4"),
            ("for=1.2.3.4, for=10.9.9.9", "1.2.3.4"),
            ("for=_hidden", "10.0.0.1"),
            ("for=unknown", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
            ("1.2.3.4", "10.0.0.1"),
        ] {
            let peer = "10.0.0.1".parse().unwrap();
            let header = ForwardedHeader::Forwarded;
            let seen = client_address(peer, header, [line].into_iter(), &TRUSTED());

            assert_eq!(seen, wanted.parse::<IpAddr>().unwrap(), "{line}");
        }
    }
}
