//! `bedrock_proxy audit verify`

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::open_existing_database;
use crate::{db::audit, settings::Database};

#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Walk the log's chain of hashes; the exit code tells whether it is what was written.
    Verify,
}

/// # Errors
/// The database's.
pub async fn run(args: Args, settings: &Database) -> anyhow::Result<ExitCode> {
    let What::Verify = args.what;
    let pool = open_existing_database(settings).await?;
    let verdict = audit::verify(&mut pool.reader().await?).await?;
    pool.close();
    let database = settings.shown_url();
    Ok(match verdict.first_bad_id {
        None => {
            println!("{} events in {database}, and each is what was written", verdict.checked);
            ExitCode::SUCCESS
        }
        Some(id) => {
            println!(
                "event {id} in {database} is not what was written, or is missing; the {} before it are",
                verdict.checked
            );
            ExitCode::FAILURE
        }
    })
}
