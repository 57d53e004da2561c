//! `bedrock_proxy login`

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::Utc;
use clap::Parser;
use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep};
use url::form_urlencoded;

use super::client::{
    ServiceUrl, Trust,
    device::Schedule,
    end_session,
    loopback::{Callback, Loopback},
    pkce, plain,
    service::Service,
    store::{self, StoreError, TokenFile},
    tokens::{Services, Tokens},
};

/// Seconds for signing in with a browser.
const BROWSER_TIMEOUT: u64 = 300;

#[derive(Debug, Parser)]
pub struct Args {
    /// The service's address: https://proxy.example.com
    url: ServiceUrl,
    /// Sign in on another device, with a code.
    #[arg(long)]
    device: bool,
    /// Only print the address to open.
    #[arg(long, conflicts_with = "device")]
    no_browser: bool,
    /// Seconds to wait for the sign-in [with a browser 300, with --device as long as the code is valid].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,
    #[command(flatten)]
    trust: Trust,
}

/// Signs in, and keeps the tokens.
///
/// # Errors
/// What kept the sign-in from succeeding.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let file = TokenFile::from_environment()?;
    // What is wrong with the file is better said before the sign-in than after it.
    match file.read() {
        Ok(_) | Err(StoreError::Damaged { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let service = Service::new(args.url.clone(), args.trust.ca_file.as_deref())?;
    // Nor should a person be sent to an address where nothing is.
    service.live().await?;
    let timeout = args.timeout.map(Duration::from_secs);
    let tokens = if args.device {
        with_device(&service, timeout).await?
    } else {
        let timeout = timeout.unwrap_or(Duration::from_secs(BROWSER_TIMEOUT));
        with_browser(&service, &args.url, !args.no_browser, timeout).await?
    };
    let former = match keep(&file, &args.url, &tokens).await {
        Ok(former) => former,
        Err(error) => {
            // Nobody could use this session any more.
            let _best_effort = end_session(&service, &tokens, Utc::now()).await;
            return Err(error.into());
        }
    };
    let whom = whom(&service, &tokens).await;
    println!("Signed in to {}{whom}. The tokens are in {}.", args.url, file.path().display());
    if let Some(former) = former
        && let Err(error) = end_session(&service, &former, Utc::now()).await
    {
        eprintln!("bedrock_proxy: the former session could not be ended: {error}");
    }
    Ok(())
}

/// ` as` the address of the person, if there is one and the service tells it.
async fn whom(service: &Service, tokens: &Tokens) -> String {
    let email = service.me(&tokens.access_token).await.ok().and_then(|me| me.email);
    email.map(|email| format!(" as {}", plain(&email))).unwrap_or_default()
}

/// Authorization code with PKCE, to a listener on this machine (RFC 8252).
async fn with_browser(
    service: &Service,
    url: &ServiceUrl,
    open: bool,
    timeout: Duration,
) -> anyhow::Result<Tokens> {
    let (state, verifier) = (pkce::random(), pkce::random());
    let loopback = Loopback::bind().await.context("no port of this machine is free")?;
    let redirect_uri = loopback.redirect_uri();
    let challenge = pkce::challenge(verifier.expose_secret());
    let address = sign_in_address(url, &redirect_uri, &challenge, state.expose_secret());
    println!("Sign in here:\n\n    {address}\n");
    if open {
        let address = address.clone();
        let opened = tokio::task::spawn_blocking(move || open::that_detached(address)).await;
        if !matches!(opened, Ok(Ok(()))) {
            println!("No browser could be opened: open the address by hand, on this machine.");
        }
    }
    match loopback.callback(&state, timeout).await {
        Some(Callback::Code(code)) => {
            Ok(service.trade_code(&code, &verifier, &redirect_uri).await?)
        }
        Some(Callback::Refused(why)) => bail!("the sign-in was refused: {why}"),
        None => bail!("nobody signed in within {} s", timeout.as_secs()),
    }
}

fn sign_in_address(url: &ServiceUrl, redirect_uri: &str, challenge: &str, state: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("redirect_uri", redirect_uri)
        .append_pair("code_challenge", challenge)
        .append_pair("code_challenge_method", "S256")
        .append_pair("state", state)
        .finish();
    url.join(&format!("/login/cli?{query}"))
}

/// Device authorization (RFC 8628): for machines without a browser.
async fn with_device(service: &Service, timeout: Option<Duration>) -> anyhow::Result<Tokens> {
    let asked = Instant::now();
    let code = service.device_code().await?;
    let valid = Duration::from_secs(code.expires_in.min(86_400));
    let until = asked + timeout.map_or(valid, |timeout| timeout.min(valid));
    println!("On any device, open\n\n    {}\n", plain(&code.verification_uri));
    println!("and enter the code\n\n    {}\n", plain(&code.user_code));
    if let Some(complete) = &code.verification_uri_complete {
        println!("or open it with the code in it: {}\n", plain(complete));
    }
    let mut schedule = Schedule::new(Duration::from_secs(code.interval));
    let mut wait = schedule.interval();
    loop {
        if Instant::now() + wait >= until {
            bail!("the code was not used in time");
        }
        sleep(wait).await;
        let error = match service.trade_device_code(&code.device_code).await {
            Ok(tokens) => return Ok(tokens),
            Err(error) => error,
        };
        wait = schedule.after(&error).ok_or(error)?;
    }
}

/// Writes the tokens; answers those of a former sign-in to the same service.
async fn keep(
    file: &TokenFile,
    url: &ServiceUrl,
    tokens: &Tokens,
) -> Result<Option<Tokens>, StoreError> {
    let locked = file.lock(store::LOCK_WAIT).await?;
    let mut services = match locked.read() {
        Err(StoreError::Damaged { path, .. }) => {
            let aside = locked.move_aside()?;
            eprintln!(
                "bedrock_proxy: {} was damaged; it is now {}",
                path.display(),
                aside.display()
            );
            Services::default()
        }
        read => read?,
    };
    let former = services.insert(url.clone(), tokens.clone());
    locked.write(&services)?;
    Ok(former)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_carries_everything_encoded() {
        let url = "https://proxy.example.com".parse().unwrap();

        let address = sign_in_address(&url, "http://127.0.0.1:4711/callback", "ch-a_l", "st-a_te");

        assert_eq!(
            address,
            "https://proxy.example.com/login/cli?redirect_uri=http%3A%2F%2F127.0.0.1%3A4711%2Fcallback\
             &code_challenge=ch-a_l&code_challenge_method=S256&state=st-a_te"
        );
    }
}
