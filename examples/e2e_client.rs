//! A small client by which people check an installation: one message or a conversation, over the Messages API or
//! over Bedrock's own, with the tokens and the times of each answer.

#[path = "e2e_client/answer.rs"]
mod answer;

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use awc::{ClientResponse, Connector, SendClientRequest};
use bedrock_sso_proxy::tls;
use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use futures_util::StreamExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use answer::{Answer, Reader};

/// The longest answer that is read as a whole.
const LONGEST: usize = 64 << 20;
/// What has to be encoded in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Check a Bedrock SSO Proxy: is it there, does it answer, how fast?
#[derive(Parser)]
#[command(
    name = "e2e_client",
    after_help = "Example: PROXY_KEY=SSOK_… e2e_client message --text Hello --stream"
)]
struct Cli {
    #[command(flatten)]
    service: Service,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Service {
    /// Where the proxy is.
    #[arg(long, global = true, env = "PROXY_URL", default_value = "http://127.0.0.1:3000")]
    url: String,
    /// API key or access token. Others on this machine can see arguments; the variable they cannot.
    #[arg(long, global = true, env = "PROXY_KEY", hide_env_values = true)]
    key: Option<SecretString>,
    /// PEM file with a private certificate authority.
    #[arg(long, global = true)]
    ca_file: Option<PathBuf>,
    /// Seconds to wait for an answer, and for each further piece of it.
    #[arg(long, global = true, default_value_t = 600)]
    timeout: u64,
}

#[derive(Subcommand)]
enum Command {
    /// Ask whether the proxy is well; the exit code tells.
    #[command(after_help = "Example: e2e_client health --url https://proxy.example.com")]
    Health,
    /// Send one message: the text goes to stdout, tokens and times to stderr.
    #[command(after_help = "Example: e2e_client message --text Hello --stream --bedrock")]
    Message {
        /// What to say.
        #[arg(long)]
        text: String,
        /// Take the answer as it is made.
        #[arg(long)]
        stream: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Talk, a line a turn. /reset forgets what was said; /quit or Ctrl-D ends.
    #[command(after_help = "Example: e2e_client chat --system 'Answer in one sentence.'")]
    Chat {
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Args)]
struct Ask {
    /// Use Bedrock's own route, /bedrock/model/{id}/invoke, instead of /anthropic/v1/messages.
    #[arg(long)]
    bedrock: bool,
    /// Default: claude-sonnet-4-5; with --bedrock, us.anthropic.claude-sonnet-4-5-20250929-v1:0.
    #[arg(long)]
    model: Option<String>,
    /// The most tokens that an answer may have.
    #[arg(long, default_value_t = 1024)]
    max_tokens: u32,
    /// The system prompt.
    #[arg(long)]
    system: Option<String>,
}

#[actix_web::main]
async fn main() -> ExitCode {
    tls::install_provider();
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let proxy = Proxy::new(cli.service)?;
    match cli.command {
        Command::Health => proxy.health().await,
        Command::Message { text, stream, ask } => {
            let answer = proxy.message(&ask, &[turn("user", &text)], stream).await?;
            eprintln!("{}", answer.report());
            Ok(())
        }
        Command::Chat { ask } => chat(&proxy, &ask).await,
    }
}

/// A conversation with stdin. On a terminal an error ends the turn, elsewhere the program.
async fn chat(proxy: &Proxy, ask: &Ask) -> anyhow::Result<()> {
    let on_terminal = io::stdin().is_terminal();
    let mut turns = Vec::new();
    loop {
        if on_terminal {
            eprint!("> ");
        }
        let Some(line) = next_line().await? else { return Ok(()) };
        match line.trim() {
            "" => continue,
            "/quit" => return Ok(()),
            "/reset" => {
                turns.clear();
                continue;
            }
            text => turns.push(turn("user", text)),
        }
        match proxy.message(ask, &turns, true).await {
            Ok(answer) => {
                eprintln!("[{}]", answer.summary());
                match answer.text.as_str() {
                    "" => drop(turns.pop()), // an empty turn would be refused next time
                    text => turns.push(turn("assistant", text)),
                }
            }
            Err(error) if on_terminal => {
                eprintln!("error: {error:#}");
                turns.pop();
            }
            Err(error) => return Err(error),
        }
    }
}

/// `None` at the end of stdin. Waits on another thread, for this one looks after the connections.
async fn next_line() -> anyhow::Result<Option<String>> {
    let line = tokio::task::spawn_blocking(|| io::stdin().lines().next().transpose());
    line.await?.context("stdin cannot be read")
}

fn turn(role: &str, text: &str) -> Value {
    json!({ "role": role, "content": text })
}

impl Ask {
    /// Path and body of the request, and the content type of its answer.
    fn request(&self, turns: &[Value], stream: bool) -> (String, Value, &'static str) {
        let named = self.model.as_deref();
        let mut body = json!({ "max_tokens": self.max_tokens, "messages": turns });
        if let Some(system) = &self.system {
            body["system"] = json!(system);
        }
        let (path, streamed) = if self.bedrock {
            body["anthropic_version"] = json!("bedrock-2023-05-31");
            let model = named.unwrap_or("us.anthropic.claude-sonnet-4-5-20250929-v1:0");
            let model = utf8_percent_encode(model, SEGMENT);
            let operation = if stream { "invoke-with-response-stream" } else { "invoke" };
            (format!("/bedrock/model/{model}/{operation}"), answer::FRAMES)
        } else {
            body["model"] = json!(named.unwrap_or("claude-sonnet-4-5"));
            body["stream"] = json!(stream);
            ("/anthropic/v1/messages".to_owned(), answer::SSE)
        };
        (path, body, if stream { streamed } else { answer::JSON })
    }
}

struct Proxy {
    http: awc::Client,
    url: String,
    key: Option<SecretString>,
    timeout: Duration,
}

impl Proxy {
    fn new(Service { url, key, ca_file, timeout }: Service) -> anyhow::Result<Self> {
        let roots = tls::roots(ca_file.as_deref()).map_err(anyhow::Error::msg)?;
        let tls = Arc::new(tls::client(roots, &["http/1.1"]));
        let http = awc::Client::builder()
            .connector(Connector::new().rustls_0_23(tls))
            .disable_timeout() // awc's is for the whole answer, ours for each piece
            .disable_redirects() // the key is for this address only
            .finish();
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { http, url, key, timeout: Duration::from_secs(timeout) })
    }

    async fn health(&self) -> anyhow::Result<()> {
        let mut response = self.send(self.http.get(format!("{}/health", self.url)).send()).await?;
        let body = self.body(&mut response).await?;
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (Some(status), Some(version)) = (said["status"].as_str(), said["version"].as_str())
        else {
            bail!("{}: {}", response.status().as_u16(), answer::error_message(&body));
        };
        answer::print(&format!("{status}, version {version}\n"))?;
        ensure!(response.status().is_success(), "it is not well: {}", response.status().as_u16());
        Ok(())
    }

    /// Sends a conversation and prints the answer's text as it comes.
    async fn message(&self, ask: &Ask, turns: &[Value], stream: bool) -> anyhow::Result<Answer> {
        let key = self.key.as_ref().context("a key is needed: PROXY_KEY or --key")?;
        let (path, body, expected) = ask.request(turns, stream);
        let mut answer = Answer::begin();
        let request = self.http.post(format!("{}{path}", self.url));
        let sending = request.bearer_auth(key.expose_secret()).send_json(&body);
        let mut response = self.send(sending).await?;
        let id = header(&response, "request-id").or(header(&response, "x-request-id"));
        answer.request_id = id.unwrap_or("-").to_owned();
        let read = self.read(&mut response, expected, &mut answer).await;
        if !answer.text.is_empty() {
            answer::print("\n")?;
        }
        read.with_context(|| format!("request {}", answer.request_id))?;
        Ok(answer)
    }

    async fn read(
        &self,
        response: &mut ClientResponse,
        expected: &'static str,
        answer: &mut Answer,
    ) -> anyhow::Result<()> {
        let status = response.status();
        if !status.is_success() {
            let body = self.body(response).await.unwrap_or_default();
            bail!("{}: {}", status.as_u16(), answer::error_message(&body));
        }
        let kind = header(response, "content-type").unwrap_or_default();
        ensure!(kind.starts_with(expected), "expected {expected}, got `{kind}`");
        let Some(mut reader) = Reader::of(expected) else {
            return answer.take_whole(&self.body(response).await?);
        };
        while let Some(piece) = self.in_time(response.next()).await? {
            for event in reader.push(&piece.context("the answer broke off")?) {
                answer.take(&event?)?;
            }
        }
        ensure!(answer.is_whole(), "the answer broke off");
        Ok(())
    }

    async fn send(&self, request: SendClientRequest) -> anyhow::Result<ClientResponse> {
        let sent = self.in_time(request).await?;
        sent.map_err(|error| anyhow::anyhow!("{}: {error}", self.url))
    }

    async fn body(&self, response: &mut ClientResponse) -> anyhow::Result<Bytes> {
        let body = response.body().limit(LONGEST);
        self.in_time(body).await?.context("the answer broke off")
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        let late = || format!("nothing came for {} s", self.timeout.as_secs());
        tokio::time::timeout(self.timeout, work).await.ok().with_context(late)
    }
}

fn header<'a>(response: &'a ClientResponse, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}
