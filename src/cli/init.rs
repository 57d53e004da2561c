//! `bedrock_proxy init`

use clap::Parser;

use super::migrate::apply;
use crate::{
    db::{Pool, audit::Origin},
    pricing::ledger::{self, Seeded},
    settings::Database,
};

#[derive(Debug, Parser)]
pub struct Args {
    /// Leave the prices as they are.
    #[arg(long, conflicts_with = "force_seed")]
    skip_costs: bool,
    /// Also bring shipped prices of an older release up to this one's; what was imported or made by hand stays.
    #[arg(long)]
    force_seed: bool,
}

/// Applies migrations and adds default prices, waiting for the database and for other instances that do the same.
///
/// # Errors
/// The database's.
pub async fn run(args: Args, database: &Database) -> anyhow::Result<()> {
    let pool = Pool::open(database)?;
    let report = apply(&pool, database).await?;
    match report.changed.as_slice() {
        [] => println!("the database is up to date ({} migrations)", report.applied.len()),
        changed => println!("applied {}", changed.join(", ")),
    }
    if !args.skip_costs {
        let mut conn = pool.writer().await?;
        let Seeded { added, refreshed, differing } =
            ledger::seed(&mut conn, args.force_seed, &Origin::operator()).await?;
        println!("prices: {added} added, {refreshed} brought up to this release");
        if differing > 0 {
            println!(
                "{differing} shipped prices differ from this release's: init --force-seed takes those"
            );
        }
    }
    pool.close();
    Ok(())
}
