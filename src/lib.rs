//! Access to AWS Bedrock through a company's own sign-in, metered to the token. `docs/architecture.md` is the
//! map; [`startup::Application`] is the way in, for `main` and for tests.

// The derives of `cache` write the same paths inside this crate and outside.
extern crate self as bedrock_sso_proxy;

pub mod actors;
pub mod anthropic;
pub mod auth;
pub mod bedrock;
pub mod cache;
pub mod cli;
pub mod db;
pub mod health;
pub mod jobs;
pub mod limits;
pub mod metrics;
pub mod notify;
pub mod pricing;
pub mod reload;
pub mod routes;
pub mod sample;
pub mod server;
pub mod settings;
pub mod simulator;
pub mod sockets;
pub mod startup;
pub mod state;
pub mod telemetry;
pub mod templates;
pub mod tls;
pub mod usage;
