//! The command line: one type here, one command a file below.

pub mod audit;
pub mod client;
pub mod demo;
pub mod health;
pub mod init;
pub mod job;
pub mod key;
pub mod login;
pub mod logout;
pub mod migrate;
mod progress;
pub mod seed;
pub mod serve;
pub mod session;
pub mod settings;
pub mod token;
pub mod user;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use crate::{
    db::{Conn, Pool, migrations, users::UserRecord},
    settings::{Database, LOCAL_PROVIDER},
};

/// Access to AWS Bedrock through your company's own sign-in, metered to the token.
#[derive(Debug, Parser)]
#[command(
    name = "bedrock_proxy",
    version,
    after_help = "Example: bedrock_proxy -c /etc/bedrock/config.yaml serve"
)]
pub struct Cli {
    /// YAML file with settings; without it, config.yaml in the working directory if it is there.
    #[arg(short, long, env = "BEDROCK_CONFIG_FILE", global = true)]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service (what happens without a command, too).
    #[command(
        after_help = "Example: BEDROCK_JWT__SECRET=$(openssl rand -base64 48) bedrock_proxy serve"
    )]
    Serve,
    /// Run everything on this machine without an account: a simulated Bedrock and sign-in, a database in a temporary folder.
    #[command(after_help = "Example: bedrock_proxy demo --port 3000")]
    Demo(demo::Args),
    /// Prepare the database; safe to repeat, and for several instances at once.
    #[command(after_help = "Example: bedrock_proxy init")]
    Init(init::Args),
    /// Build summaries, clean up, price calls anew; list what runs by itself.
    #[command(after_help = "Example: bedrock_proxy job status")]
    Job(job::Args),
    /// Default prices and, in a database without usage, sample usage of an invented company; for development.
    #[command(after_help = "Example: bedrock_proxy seed --people 20 --days 30")]
    Seed(seed::Args),
    /// Change or show the database schema.
    #[command(after_help = "Example: bedrock_proxy migrate status")]
    Migrate(migrate::Args),
    /// Show the effective settings, or check them.
    #[command(after_help = "Example: bedrock_proxy -c config.yaml settings check")]
    Settings(settings::Args),
    /// People made by an operator.
    #[command(after_help = "Example: bedrock_proxy user create dev@example.com")]
    User(user::Args),
    /// API keys made by an operator.
    #[command(after_help = "Example: bedrock_proxy key create dev@example.com --name laptop")]
    Key(key::Args),
    /// Sign-ins that are under way: end them.
    #[command(after_help = "Example: bedrock_proxy session end --all")]
    Session(session::Args),
    /// The audit log.
    #[command(after_help = "Example: bedrock_proxy audit verify || echo the log was changed")]
    Audit(audit::Args),
    /// Ask the running service whether it is ready; the exit code tells.
    #[command(after_help = "Example: bedrock_proxy health || echo not ready")]
    Health(health::Args),
    /// Sign in to a service, as the person at this machine; needs no settings.
    #[command(after_help = "Example: bedrock_proxy login https://proxy.example.com\n\
                            On a machine without a browser: bedrock_proxy login https://proxy.example.com --device")]
    Login(login::Args),
    /// Print an access token of the sign-in, a fresh one where needed.
    #[command(
        after_help = "Example: \"apiKeyHelper\": \"bedrock_proxy token\" in ~/.claude/settings.json"
    )]
    Token(token::Args),
    /// End the sign-in, here and on the service.
    #[command(after_help = "Example: bedrock_proxy logout")]
    Logout(logout::Args),
}

/// A crash must not write prompts and secrets to disk (SEC-82).
pub fn no_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        eprintln!("bedrock_proxy: core dumps could not be turned off: {error}");
    }
}

/// The database, for a command that works on it directly; its schema must be this binary's.
async fn open_database(settings: &Database) -> anyhow::Result<Pool> {
    let pool = Pool::open(settings).context("database.url")?;
    let wait = std::time::Duration::from_secs(settings.wait_seconds);
    migrations::prepare(&pool, settings.migration_on_startup, wait).await?;
    Ok(pool)
}

/// A database that is there already, with the schema of this binary: nothing is made or migrated.
async fn open_existing_database(settings: &Database) -> anyhow::Result<Pool> {
    must_exist(settings)?;
    open_database(&Database { migration_on_startup: false, ..settings.clone() }).await
}

/// For a command that would be pointless on a database that it makes itself.
fn must_exist(settings: &Database) -> anyhow::Result<()> {
    match settings.sqlite_path().filter(|path| !path.exists()) {
        Some(path) => bail!("there is no database at {} (database.url)", path.display()),
        None => Ok(()),
    }
}

/// The person with this id or e-mail address, whatever they sign in with.
///
/// # Errors
/// That there is none, or that the address is that of several: which of them is meant is not guessed.
async fn person(conn: &mut Conn, who: &str) -> anyhow::Result<UserRecord> {
    let mut found = match who.parse() {
        Ok(id) => UserRecord::find(conn, id).await?.into_iter().collect(),
        Err(_) => UserRecord::with_email(conn, who).await?,
    };
    match (found.pop(), found.as_slice()) {
        (Some(user), []) => Ok(user),
        (Some(last), others) => {
            let all = others.iter().chain([&last]);
            let all: Vec<_> = all.map(|u| format!("{} ({})", u.id, u.provider)).collect();
            bail!(
                "{who} is the address of several people; say by id whom you mean: {}",
                all.join(", ")
            )
        }
        (None, _) => {
            bail!(
                "there is no person {who}: see bedrock_proxy user list, or bedrock_proxy user create EMAIL"
            )
        }
    }
}

/// As [`person`]; of several with one address it is the one whom an operator made, so that what scripts ask for stays
/// what it is when the same address signs in with a provider.
async fn person_to_equip(conn: &mut Conn, who: &str) -> anyhow::Result<UserRecord> {
    match UserRecord::by_subject(conn, LOCAL_PROVIDER, &who.to_ascii_lowercase()).await? {
        Some(user) => Ok(user),
        None => person(conn, who).await,
    }
}
