//! The Anthropic Messages API on top of InvokeModel: where the names of models lead, what is edited in a request, how
//! events are converted, what errors are called. Pure; `routes::anthropic` does the rest.

pub mod complaint;
pub mod error;
pub mod event;
pub mod learned;
pub mod models;
pub mod outline;
pub mod request;
pub mod rules;
mod splice;
