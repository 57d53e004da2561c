//! `bedrock_proxy logout`

use anyhow::Context;
use chrono::Utc;
use clap::Parser;

use super::client::{
    ServiceUrl, Trust, end_session,
    service::Service,
    store::{self, TokenFile},
};

#[derive(Debug, Parser)]
pub struct Args {
    /// The service, if signed in to several.
    #[arg(long)]
    url: Option<ServiceUrl>,
    /// Only forget the tokens; the session goes on until it ends by itself.
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    trust: Trust,
}

/// Ends the session, and forgets its tokens in any case.
///
/// # Errors
/// That nobody is signed in, or that the service could not be told.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let file = TokenFile::from_environment()?;
    file.read()?.choose(args.url.as_ref())?;
    // Held while the service is told, so that no other process refreshes what is being ended.
    let locked = file.lock(store::LOCK_WAIT).await?;
    let mut services = locked.read()?;
    let (url, tokens) = services.choose(args.url.as_ref())?;
    let (url, tokens) = (url.clone(), tokens.clone());
    let ended = if args.local {
        Ok(())
    } else {
        match Service::new(url.clone(), args.trust.ca_file.as_deref()) {
            Ok(service) => end_session(&service, &tokens, Utc::now()).await,
            Err(error) => Err(error),
        }
    };
    services.remove(&url);
    locked.write(&services)?;
    ended.with_context(|| {
        format!("the tokens for {url} are removed here, but its session could not be ended")
    })?;
    println!("Signed out of {url}.");
    Ok(())
}
