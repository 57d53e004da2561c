//! Bedrock Runtime, as a client of it.

pub mod event_stream;
pub mod model_id;
pub mod sign;
