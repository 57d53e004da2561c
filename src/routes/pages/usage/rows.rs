//! Calls as lists show them.

use std::collections::HashMap;

use super::asked::Whose;
use crate::{
    db::{self, Conn, api_keys::ApiKeyRecord, usage::UsageRecord, users::UserRecord},
    routes::error::ApiError,
};

/// A call in the list.
pub struct Row {
    pub id: i64,
    pub at: db::Timestamp,
    pub person: String,
    pub user_id: i64,
    pub model: String,
    pub region: String,
    pub key: String,
    /// Of all classes; `None` = nothing is known of them.
    pub tokens: Option<i64>,
    /// It counted the tokens of a prompt, and used none itself.
    pub counts: bool,
    pub cost: Option<i64>,
    pub estimated: bool,
    pub outcome: String,
    pub ms: Option<i64>,
}

pub(super) const SIGNED_IN: &str = "no key (signed in)";

pub(super) fn key_name(names: &HashMap<i64, String>, id: i64) -> String {
    names.get(&id).cloned().unwrap_or_else(|| format!("key {id}"))
}

/// Rows of the list, with names in the place of numbers.
pub(super) async fn in_words(
    conn: &mut Conn,
    rows: Vec<UsageRecord>,
    whose: Whose,
) -> Result<Vec<Row>, ApiError> {
    let mut unnamed: Vec<i64> = rows.iter().filter_map(|row| row.key_id).collect();
    unnamed.sort_unstable();
    unnamed.dedup();
    let keys = ApiKeyRecord::names(conn, &unnamed).await?;
    let mut people: Vec<i64> = rows.iter().map(|row| row.user_id).collect();
    people.sort_unstable();
    people.dedup();
    let people = match whose {
        Whose::Own(_) => HashMap::new(),
        Whose::Everybodys => UserRecord::names(conn, &people).await?,
    };
    Ok(rows.into_iter().map(|row| Row::new(row, &keys, &people)).collect())
}

impl Row {
    pub fn new(
        row: UsageRecord,
        keys: &HashMap<i64, String>,
        people: &HashMap<i64, String>,
    ) -> Self {
        let tokens = row.total_tokens();
        Self {
            id: row.id,
            at: row.request_time,
            person: people
                .get(&row.user_id)
                .cloned()
                .unwrap_or_else(|| format!("person {}", row.user_id)),
            user_id: row.user_id,
            model: row.model_id,
            region: row.region,
            key: row.key_id.map_or_else(|| SIGNED_IN.to_owned(), |id| key_name(keys, id)),
            tokens,
            counts: row.operation == "count_tokens",
            cost: row.cost_nano_usd,
            estimated: row.estimated,
            outcome: row.outcome,
            ms: row.response_time_ms,
        }
    }

    pub fn outcome_in_words(&self) -> String {
        words(&self.outcome)
    }

    pub fn failed(&self) -> bool {
        self.outcome != "success"
    }
}

/// `upstream_error` as people write it.
pub(super) fn words(outcome: &str) -> String {
    outcome.replace('_', " ")
}
