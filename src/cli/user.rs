//! `bedrock_proxy user create | list | state | token`

use anyhow::{Context, bail};
use chrono::TimeDelta;
use clap::{Parser, Subcommand, ValueEnum};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{open_database, person, person_to_equip};
use crate::{
    auth::{AdminRule, email, jwt, keys::Keys},
    db::{
        self, Conn,
        audit::{Event, Origin},
        sessions::{NewSession, SessionRecord},
        users::{NewUser, UserRecord},
    },
    settings::{LOCAL_PROVIDER as PROVIDER, Settings},
};

/// A page of a list.
const PAGE: i64 = 500;

#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Add a person, with the provider `local`.
    Create {
        email: String,
        /// The name to show.
        #[arg(long)]
        name: Option<String>,
    },
    /// List everybody.
    List,
    /// Let a person in or lock them out, everywhere within seconds.
    State {
        /// The person's e-mail address, or their id in `user list`.
        who: String,
        state: State,
    },
    /// Start a session and print an access token for it.
    Token {
        /// The person's e-mail address, or their id in `user list`.
        who: String,
        /// Seconds the token lives; at most jwt.access_token_ttl.
        #[arg(long)]
        ttl: Option<u32>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Active,
    Disabled,
}

/// # Errors
/// The database's, or that there is no such person.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<()> {
    let pool = open_database(&settings.database).await?;
    let mut conn = pool.writer().await?;
    match args.what {
        What::Create { email, name } => {
            let admins = AdminRule::new(&settings.admin, &settings.oauth);
            let user = create(&mut conn, &email, name.as_deref(), &admins).await?;
            println!("{}", user.id);
        }
        What::List => list(&mut conn).await?,
        What::State { who, state } => set_state(&mut conn, &who, state).await?,
        What::Token { who, ttl } => {
            let most = settings.jwt.access_token_ttl;
            let ttl = ttl.unwrap_or(most);
            if !(1..=most).contains(&ttl) {
                bail!("--ttl must be 1 to {most} seconds (jwt.access_token_ttl)");
            }
            println!("{}", token(&mut conn, &who, ttl, &Keys::new(settings)?).await?);
        }
    }
    drop(conn);
    pool.close();
    Ok(())
}

/// Adds a person.
///
/// # Errors
/// A malformed or known address.
pub async fn create(
    conn: &mut Conn,
    email: &str,
    name: Option<&str>,
    admins: &AdminRule,
) -> anyhow::Result<UserRecord> {
    let Some((local, domain)) = email::parse(email) else {
        bail!("`{email}` is not an e-mail address");
    };
    let subject = format!("{local}@{domain}");
    if UserRecord::by_subject(conn, PROVIDER, &subject).await?.is_some() {
        bail!("there is a person {subject} already");
    }
    let now = db::now();
    let new = NewUser {
        provider: PROVIDER,
        subject: &subject,
        email: Some(&subject),
        // The operator vouches for it.
        email_verified: true,
        display_name: name,
        state: "active",
        created_at: now,
        updated_at: now,
        admin: admins.admits(PROVIDER, Some(&subject), true),
    };
    let origin = Origin::operator();
    let event = Event {
        provider: Some(PROVIDER),
        object: format!("user:{PROVIDER}/{subject}"),
        metadata: json!({ "email": subject, "admin": new.admin }),
        ..Event::new(now, "user_created", &origin)
    };
    Ok(UserRecord::create(conn, &new, event).await?)
}

async fn list(conn: &mut Conn) -> anyhow::Result<()> {
    println!("{:>8}  {:<10}  {:<9}  EMAIL", "ID", "PROVIDER", "STATE");
    let mut after = 0;
    loop {
        let page = UserRecord::list(conn, after, PAGE).await?;
        for user in &page {
            let email = user.email.as_deref().unwrap_or("-");
            println!("{:>8}  {:<10}  {:<9}  {email}", user.id, user.provider, user.state);
        }
        match page.last() {
            Some(last) => after = last.id,
            None => return Ok(()),
        }
    }
}

async fn set_state(conn: &mut Conn, who: &str, state: State) -> anyhow::Result<()> {
    let user = person(conn, who).await?;
    let state = match state {
        State::Active => "active",
        State::Disabled => "disabled",
    };
    // An operator may also lock out the last admin: this is the way back in.
    UserRecord::set_state(conn, user.id, state, false, db::now(), &Origin::operator()).await?;
    println!("{who} (person {}, {}) is {state}", user.id, user.provider);
    Ok(())
}

/// Starts a session and answers an access token for it.
///
/// # Errors
/// That there is no such person, or the database's.
pub async fn token(conn: &mut Conn, who: &str, ttl: u32, keys: &Keys) -> anyhow::Result<String> {
    let user = person_to_equip(conn, who).await?;
    let now = db::now();
    let session = uuid::Uuid::new_v4().to_string();
    let expires_at =
        now.checked_add_signed(TimeDelta::seconds(i64::from(ttl))).context("--ttl is too long")?;
    let origin = Origin::operator();
    let new = NewSession::starting(&session, user.id, "cli", now, expires_at, &origin);
    let event = Event {
        user_id: Some(user.id),
        object: format!("session:{session}"),
        metadata: json!({ "kind": "cli", "ttl_seconds": ttl }),
        ..Event::new(now, "session_created", &origin)
    };
    if !SessionRecord::create(conn, &new, None, None, event).await? {
        bail!("{who} is {}", user.state);
    }
    Ok(jwt::issue(&keys.jwt, user.id, &session, ttl, now)?.expose_secret().to_owned())
}
