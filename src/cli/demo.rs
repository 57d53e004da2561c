//! `bedrock_proxy demo`: the whole product on one machine, with no account.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use chrono::Days;
use clap::Parser;

use super::{
    key,
    seed::{self, Identity},
    serve,
};
use crate::{
    auth::keys::Keys,
    cli::open_database,
    db::{self, Timestamp, audit::Origin},
    jobs::Rules,
    pricing::ledger,
    sample::Plan,
    settings::{LOCAL_PROVIDER, Need, Settings},
    simulator::{
        Simulator, SimulatorConfig,
        identity::{IdentityConfig, IdentityProvider},
    },
    startup::Application,
    telemetry,
};

const EMAIL: &str = "demo@example.com";
/// The settings name the provider so (`oauth.providers.demo`).
const PROVIDER: &str = "demo";
/// Of the provider's test people, the one who is an admin.
const ADMIN: &str = "admin@example.com";
/// People of the company whose month of usage is there.
const PEOPLE: usize = 12;
const MODEL: &str = "us.anthropic.claude-sonnet-4-20250514-v1:0";

#[derive(Debug, Parser)]
pub struct Args {
    /// Port of the service, on this machine only.
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// Log what happens, as `serve` does.
    #[arg(long)]
    verbose: bool,
}

/// Runs until SIGTERM or Ctrl-C, then removes what it made.
///
/// # Errors
/// If a port is taken, mostly.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let bedrock = Simulator::start(SimulatorConfig::default()).await?;
    let identity = IdentityProvider::start(IdentityConfig::default()).await?;
    let settings = settings(&args, &folder.0, &bedrock, &identity)?;
    let log = telemetry::init(&settings.logging)?;
    let pool = open_database(&settings.database).await?;
    let mut conn = pool.writer().await?;
    ledger::seed(&mut conn, false, &Origin::service()).await?;
    drop(conn);
    // They have a month behind them when they sign in for the first time.
    let person = |provider, subject, email, display_name| {
        let admin = email == ADMIN;
        Identity { provider, subject, email, display_name, admin }
    };
    let people = [
        person(PROVIDER, "1001", ADMIN, "Demo Admin"),
        person(LOCAL_PROVIDER, EMAIL, EMAIL, "Demo"),
        person(PROVIDER, "1002", "developer@example.com", "Demo Developer"),
    ];
    let plan = month(db::now());
    seed::fill(&pool, &Rules::new(&settings)?, &plan, &people, &|_progress| {}).await?;
    let keys = Keys::new(&settings)?;
    let conn = &mut pool.writer().await?;
    let api_key = key::create(conn, EMAIL, "demo", Some(1), &settings.api_keys, &keys).await?;
    pool.close();

    let application = Application::build(settings).await?;
    // By this name, and no other, it is known to the identity provider and to cookies.
    let base = format!("http://localhost:{}", application.address().port());
    let metrics = application.metrics_address().map(|address| format!("http://{address}/metrics"));
    println!("{}", welcome(&base, api_key.as_str(), &metrics.unwrap_or_default(), &bedrock.url()));
    let (stop, hurry) = serve::signals()?;
    application.run_until_stopped(stop, hurry).await?;
    bedrock.stop().await;
    identity.stop().await;
    drop(log);
    Ok(())
}

/// A month of a small company; the demo's own people take the places of its first.
fn month(now: Timestamp) -> Plan {
    let start = now.date().checked_sub_days(Days::new(30)).unwrap_or(now.date());
    Plan { people: PEOPLE, start, end: now, calls: None, seed: 1 }
}

fn settings(
    args: &Args,
    folder: &Path,
    bedrock: &Simulator,
    identity: &IdentityProvider,
) -> anyhow::Result<Settings> {
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).map_err(|_| anyhow::anyhow!("no random bytes"))?;
    let (known, client) = (SimulatorConfig::default(), IdentityConfig::default());
    let given = [
        ("SERVER__HOST", "127.0.0.1".to_owned()),
        ("SERVER__PORT", args.port.to_string()),
        ("JWT__SECRET", hex::encode(secret)),
        ("DATABASE__URL", format!("sqlite://{}", folder.join("demo.db").display())),
        ("AWS__REGION", "us-east-1".to_owned()),
        ("AWS__ACCESS_KEY_ID", known.access_key_id),
        ("AWS__SECRET_ACCESS_KEY", known.secret_access_key),
        ("AWS__ENDPOINT_URL", bedrock.url()),
        ("OAUTH__PROVIDERS__DEMO__ISSUER", identity.issuer()),
        ("OAUTH__PROVIDERS__DEMO__CLIENT_ID", client.client_id),
        ("OAUTH__PROVIDERS__DEMO__CLIENT_SECRET", client.client_secret),
        ("OAUTH__PROVIDERS__DEMO__DISPLAY_NAME", "the simulated provider".to_owned()),
        ("OAUTH__PROVIDERS__DEMO__SCOPES", "openid,email,profile,offline_access".to_owned()),
        ("ADMIN__EMAILS", ADMIN.to_owned()),
        ("METRICS__PORT", "0".to_owned()),
        // That nobody is an admin yet goes without saying here.
        (
            "LOGGING__LEVEL",
            if args.verbose { "info" } else { "warn,bedrock_sso_proxy::startup=error" }.to_owned(),
        ),
    ];
    let environment = given.into_iter().map(|(name, value)| (format!("BEDROCK_{name}"), value));
    Ok(Settings::from_layers(None, environment, Need::Service)?)
}

fn welcome(base: &str, key: &str, metrics: &str, bedrock: &str) -> String {
    let program = std::env::current_exe();
    let program =
        program.map_or_else(|_| "bedrock_proxy".into(), |path| path.display().to_string());
    format!(
        r#"
The Bedrock SSO Proxy runs at {base}, with a simulated Bedrock and a simulated identity
provider: no model is called, no account is needed, and everything is gone when you stop it (Ctrl-C).

Sign in with a browser, as one of the provider's test people (admin@example.com is an admin):

    {base}/login

Sign in from a terminal, then print an access token, as Claude Code's apiKeyHelper does:

    {program} login {base} && {program} token

An API key for {EMAIL}:

    export KEY={key}

Stream a reply (the text of its events), as the Anthropic SDKs and Claude Code do:

    curl -sN {base}/anthropic/v1/messages \
      -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
      -d '{{"model":"claude-opus-4-8","max_tokens":1024,"stream":true,
           "messages":[{{"role":"user","content":"Hello! @sim:plain delay_ms=150"}}]}}' \
      | grep -oE '"text":"[^"]+"'

The same over Bedrock's own API:

    curl -sN {base}/bedrock/model/{MODEL}/converse-stream \
      -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
      -d '{{"messages":[{{"role":"user","content":[{{"text":"Hello! @sim:plain delay_ms=150"}}]}}]}}' \
      | grep -aoE '"text":"[^"]*"'

See it metered and priced, half a second later, beside a month of sample usage:

    curl -s "{base}/api/usage/records?limit=1" -H "Authorization: Bearer $KEY"
    curl -s "{base}/api/usage/summaries?period_type=total" -H "Authorization: Bearer $KEY"

Metrics: {metrics}
The API, described: {base}/openapi.yaml
What the simulated Bedrock saw: {bedrock}/_simulator/ledger
"#
    )
}

/// A temporary folder, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("bedrock-demo-{}", uuid::Uuid::new_v4()));
        db::private_directory(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}
