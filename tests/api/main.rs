//! Tests of the assembled application, from outside: the real service on port 0, a simulated Bedrock behind it, and
//! real databases.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice,
    reason = "tests and their helpers"
)]

mod admin_pages;
mod audit;
mod auth;
mod bedrock;
mod cache;
mod cli;
mod clients;
mod cluster;
mod command_line;
mod connect;
mod costs;
mod docs;
mod error_pages;
mod example;
mod export;
mod faults;
mod helpers;
mod instances;
mod jobs;
mod journey;
mod keys;
mod keys_page;
mod kills;
mod lifecycle;
mod limits;
mod matrix;
mod messages;
mod money;
mod openapi;
mod people;
mod plans;
mod races;
mod reload;
mod rolling;
mod secrets;
mod service_manager;
mod settings;
mod sign_in;
mod streams;
mod streams_admin;
mod summaries;
mod tokens;
mod usage;
mod usage_pages;
