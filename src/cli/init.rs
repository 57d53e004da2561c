//! `bedrock_proxy init`

use clap::Parser;

use super::migrate::apply;
use crate::{db::Pool, settings::Database};

#[derive(Debug, Parser)]
pub struct Args {}

/// Applies migrations, waiting for the database and for other instances that do the same.
///
/// # Errors
/// The database's.
pub async fn run(Args {}: Args, database: &Database) -> anyhow::Result<()> {
    let pool = Pool::open(database)?;
    let report = apply(&pool, database).await?;
    match report.changed.as_slice() {
        [] => println!("the database is up to date ({} migrations)", report.applied.len()),
        changed => println!("applied {}", changed.join(", ")),
    }
    pool.close();
    Ok(())
}
