//! `bedrock_proxy session end`

use clap::{Parser, Subcommand};

use super::{must_exist, open_database, person};
use crate::{
    db::{
        self,
        audit::{Event, Origin},
        sessions::SessionRecord,
    },
    settings::Database,
};

#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// End sessions with their access tokens, refresh tokens and live streams, everywhere within seconds. API keys go on.
    #[command(after_help = "Examples: bedrock_proxy session end --user dev@example.com\n\
                            After a restore, or when a database was seen by others: bedrock_proxy session end --all")]
    End(Whose),
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Whose {
    /// Everybody's: all sign in again.
    #[arg(long)]
    all: bool,
    /// One person's: their e-mail address, or their id in `user list`.
    #[arg(long, value_name = "WHO")]
    user: Option<String>,
}

/// # Errors
/// The database's, or that there is no such person.
pub async fn run(args: Args, settings: &Database) -> anyhow::Result<()> {
    let What::End(Whose { user, .. }) = args.what;
    must_exist(settings)?;
    let pool = open_database(settings).await?;
    let mut conn = pool.writer().await?;
    let origin = Origin::operator();
    let event = Event::new(db::now(), "sessions_ended_by_operator", &origin);
    match user {
        Some(who) => {
            let user = person(&mut conn, &who).await?;
            let ended = SessionRecord::end(&mut conn, user.id, None, event).await?;
            println!("{who} (person {}, {}): {ended} sessions ended", user.id, user.provider);
        }
        None => {
            let ended = SessionRecord::end_every(&mut conn, event).await?;
            println!("{ended} sessions ended, of everybody");
        }
    }
    drop(conn);
    pool.close();
    Ok(())
}
