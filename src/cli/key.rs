//! `bedrock_proxy key create | list | revoke`

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use serde_json::json;

use super::{open_database, person_to_equip};
use crate::{
    auth::{
        api_key::{self, ApiKeyText},
        keys::Keys,
    },
    db::{
        self, Conn,
        api_keys::{ApiKeyRecord, NewApiKey},
        audit::{Event, Origin},
    },
    settings::{ApiKeys, Settings},
};

const LISTED: i64 = 1000;

#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a key and print it, this once.
    Create {
        /// Whose it is: an e-mail address, or an id in `user list`.
        who: String,
        /// What the key is for.
        #[arg(long)]
        name: String,
        /// Days it lives [api_keys.default_expiry_days].
        #[arg(long, conflicts_with = "never_expires")]
        expires_in_days: Option<u32>,
        /// It has no end; only where api_keys.max_expiry_days is empty.
        #[arg(long)]
        never_expires: bool,
    },
    /// List keys, newest first.
    List {
        /// Only this person's: an e-mail address, or an id in `user list`.
        who: Option<String>,
    },
    /// End a key, everywhere within seconds.
    Revoke { id: i64 },
}

/// # Errors
/// The database's, or what keeps the key from being made.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<()> {
    let pool = open_database(&settings.database).await?;
    let mut conn = pool.writer().await?;
    match args.what {
        What::Create { who, name, expires_in_days, never_expires } => {
            let days = if never_expires {
                None
            } else {
                expires_in_days.or(settings.api_keys.default_expiry_days)
            };
            let key =
                create(&mut conn, &who, &name, days, &settings.api_keys, &Keys::new(settings)?)
                    .await?;
            println!("{}", key.as_str());
            eprintln!("This key is shown once; it cannot be shown again.");
        }
        What::List { who } => list(&mut conn, who.as_deref()).await?,
        What::Revoke { id } => revoke(&mut conn, id).await?,
    }
    drop(conn);
    pool.close();
    Ok(())
}

/// Makes a key that lives for `days` (`None` = without an end).
///
/// # Errors
/// A name, lifetime or number of keys that is not allowed.
pub async fn create(
    conn: &mut Conn,
    who: &str,
    name: &str,
    days: Option<u32>,
    rules: &ApiKeys,
    keys: &Keys,
) -> anyhow::Result<ApiKeyText> {
    if !rules.enabled {
        bail!("API keys are off (api_keys.enabled)");
    }
    let now = db::now();
    let name = api_key::name(name)?;
    let expires_at = api_key::end(days.map(i64::from), rules, now)?;
    let user = person_to_equip(conn, who).await?;
    if user.state != "active" {
        bail!("{who} is {}", user.state);
    }
    let key = ApiKeyText::generate();
    let digests = keys.digests(&key);
    let (pepper_id, digest) = digests.first().context("there is always a pepper")?;
    let new = NewApiKey {
        user_id: user.id,
        digest,
        pepper_id,
        hint: key.hint(),
        name: &name,
        created_at: now,
        expires_at,
    };
    let origin = Origin::operator();
    let event = Event {
        user_id: Some(user.id),
        metadata: json!({ "name": name, "expires_at": expires_at.map(|end| end.and_utc().to_rfc3339()) }),
        ..Event::new(now, "key_created", &origin)
    };
    ApiKeyRecord::create(conn, &new, i64::from(rules.max_keys_per_user), None, event).await?;
    Ok(key)
}

async fn list(conn: &mut Conn, who: Option<&str>) -> anyhow::Result<()> {
    let user_id = match who {
        Some(who) => Some(person_to_equip(conn, who).await?.id),
        None => None,
    };
    println!("{:>6}  {:>6}  {:<9}  {:<6}  {:<19}  NAME", "ID", "USER", "STATUS", "HINT", "EXPIRES");
    let now = db::now();
    for key in ApiKeyRecord::list(conn, user_id, LISTED).await? {
        let status = key.status(now);
        let ends = key
            .expires_at
            .map_or_else(|| "never".to_owned(), |end| end.format("%Y-%m-%d %H:%M:%S").to_string());
        println!(
            "{:>6}  {:>6}  {status:<9}  …{:<5}  {ends:<19}  {}",
            key.id, key.user_id, key.hint, key.name
        );
    }
    Ok(())
}

async fn revoke(conn: &mut Conn, id: i64) -> anyhow::Result<()> {
    let now = db::now();
    let origin = Origin::operator();
    let event =
        Event { object: format!("api_key:{id}"), ..Event::new(now, "key_revoked", &origin) };
    if !ApiKeyRecord::revoke(conn, id, None, now, event).await? {
        bail!("there is no live key {id}");
    }
    println!("key {id} is revoked");
    Ok(())
}
