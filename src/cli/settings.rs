//! `bedrock_proxy settings show | check`

use std::{path::Path, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    settings::{Need, Problems, Settings, surroundings},
    startup,
};

#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the effective settings as YAML, secrets masked.
    Show,
    /// Name every problem at once.
    Check,
}

/// # Errors
/// Every problem of the settings.
pub fn run(args: &Args, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Show => {
            let settings = Settings::load(file, Need::Database)?;
            print!("{}", serde_yaml::to_string(&settings.masked)?);
        }
        What::Check => {
            let settings = Settings::load(file, Need::Service)?;
            let problems = surroundings(&settings);
            if !problems.is_empty() {
                return Err(Problems(problems).into());
            }
            println!("the settings are sound");
            startup::notes(&settings).iter().for_each(|note| println!("note: {note}"));
            if settings.secrets.api_key_pepper.is_none() {
                println!(
                    "note: secrets.api_key_pepper is derived from jwt.secret; set one of its own before jwt.secret \
                     is rotated for the first time"
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
