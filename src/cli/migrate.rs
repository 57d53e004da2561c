//! `bedrock_proxy migrate up | down | status`

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use crate::{
    db::{
        Pool,
        migrations::{self, Report, Step},
    },
    settings::Database,
};

#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    step: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Apply what is pending.
    Up,
    /// Take back the newest migrations, with the data in their tables; a person at a terminal is asked first.
    Down {
        /// How many.
        #[arg(long, default_value_t = 1)]
        steps: u32,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// List what is applied and what is pending.
    Status,
}

/// # Errors
/// The database's.
pub async fn run(args: Args, database: &Database) -> anyhow::Result<()> {
    let pool = Pool::open(database).context("database.url")?;
    match args.step {
        What::Up => {
            let report = apply(&pool, database).await?;
            report.changed.iter().for_each(|version| println!("applied {version}"));
            if report.changed.is_empty() {
                println!("nothing to apply");
            }
        }
        What::Down { steps, yes } => {
            if !yes && std::io::stdin().is_terminal() && !agrees(database, steps)? {
                bail!("nothing was taken back");
            }
            let report = migrations::run(&pool, Step::Down(steps)).await?;
            report.changed.iter().for_each(|version| println!("took back {version}"));
            if report.changed.is_empty() {
                println!("nothing to take back");
            }
        }
        What::Status => {
            let report = migrations::run(&pool, Step::Look).await?;
            report.applied.iter().for_each(|version| println!("applied  {version}"));
            report.pending.iter().for_each(|version| println!("pending  {version}"));
            report
                .unknown
                .iter()
                .for_each(|version| println!("unknown  {version} (of a newer release)"));
        }
    }
    pool.close();
    Ok(())
}

/// Asks the person at the terminal.
fn agrees(database: &Database, steps: u32) -> anyhow::Result<bool> {
    let database = database.shown_url();
    print!(
        "{steps} of the migrations of {database} go, with all data in their tables. Go on? [y/N] "
    );
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Brings the schema up, waiting for the database as long as the settings say.
pub(super) async fn apply(pool: &Pool, database: &Database) -> anyhow::Result<Report> {
    Ok(migrations::prepare(pool, true, Duration::from_secs(database.wait_seconds)).await?)
}
