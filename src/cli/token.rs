//! `bedrock_proxy token`: one access token on stdout, for Claude Code's `apiKeyHelper` and the like.

use std::io::Write;

use anyhow::Context;
use chrono::{TimeDelta, Utc};
use clap::Parser;
use secrecy::{ExposeSecret, SecretString};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{
    ServiceUrl, Trust, check,
    service::{Service, ServiceError},
    store::{self, StoreError, TokenFile},
    tokens::{ChoiceError, Tokens},
};

#[derive(Debug, Parser)]
pub struct Args {
    /// The service, if signed in to several.
    #[arg(long)]
    url: Option<ServiceUrl>,
    /// Seconds that the token must live at least; never more than half of its life.
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(0..=86_400))]
    min_valid: u32,
    #[command(flatten)]
    trust: Trust,
}

/// Prints an access token. No network, no lock and no settings as long as the one at hand will do, and the service has
/// lately been seen to take it.
///
/// # Errors
/// That nobody is signed in, or that the sign-in has ended.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let file = TokenFile::from_environment()?;
    let at_least = TimeDelta::seconds(i64::from(args.min_valid));
    let services = file.read()?;
    let (url, held) = services.choose(args.url.as_ref())?;
    let mut refused = None;
    if held.is_fresh(at_least, Utc::now()) {
        if held.was_checked(Utc::now())
            || check::is_taken(&file, url, &held.access_token, &args.trust).await
        {
            return print(held);
        }
        refused = Some(&held.access_token);
    }
    match renew(&file, url, at_least, refused, &args.trust).await {
        Ok(fresh) => print(&fresh),
        Err(error @ (RenewError::Store(_) | RenewError::Service(_)))
            if refused.is_none() && held.lives(Utc::now()) =>
        {
            let error = anyhow::Error::from(error);
            eprintln!("bedrock_proxy: {error:#}; the token at hand lives a little longer");
            print(held)
        }
        Err(error) => Err(error.into()),
    }
}

fn print(tokens: &Tokens) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", tokens.access_token.expose_secret())
        .and_then(|()| out.flush())
        .context("the token could not be printed")
}

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the sign-in has ended. Sign in again: bedrock_proxy login {0}")]
    Ended(ServiceUrl),
    /// Another process signed out meanwhile.
    #[error(transparent)]
    SignedOut(#[from] ChoiceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("signals could not be held back")]
    Signals(#[source] std::io::Error),
}

/// Trades the refresh token, once among all processes: whoever waits for the lock finds the new one in the file. An
/// access token that the service has `refused` will not do, however long it lives.
async fn renew(
    file: &TokenFile,
    url: &ServiceUrl,
    at_least: TimeDelta,
    refused: Option<&SecretString>,
    trust: &Trust,
) -> Result<Tokens, RenewError> {
    let locked = file.lock(store::LOCK_WAIT).await?;
    let mut services = locked.read()?;
    let (_, tokens) = services.choose(Some(url))?;
    let is_refused = refused.is_some_and(|refused| tokens.has(refused));
    if tokens.is_fresh(at_least, Utc::now()) && !is_refused {
        return Ok(tokens.clone());
    }
    let spent = tokens.refresh_token.clone();
    let service = Service::new(url.clone(), trust.ca_file.as_deref())?;
    // Where the new tokens could not be kept, the old one must not be spent.
    locked.write(&services)?;
    outlast_signals().map_err(RenewError::Signals)?;
    match service.refresh(&spent).await {
        Ok(fresh) => {
            services.insert(url.clone(), fresh.clone());
            locked.write(&services)?;
            Ok(fresh)
        }
        Err(error) if error.has_ended() => {
            services.remove(url);
            locked.write(&services)?;
            Err(RenewError::Ended(url.clone()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Ctrl-C between the spending of the old token and the keeping of the new one would end the sign-in. From here on
/// such signals do nothing: tokio replaces their default for good, and it is seconds until the end.
fn outlast_signals() -> std::io::Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let _handler = signal(kind)?;
    }
    Ok(())
}
