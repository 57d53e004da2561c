//! The hash chain: how a row is hashed and appended, and whether what is there is what was written.

use aws_lc_rs::digest;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::json;

use super::{AuditLogEntry, Event, RETENTION, Unwritten, taken::Taken};
use crate::db::{
    Conn, DbError, SqliteAsync, on_conn,
    schema::{audit_chain, audit_logs},
};

/// Longest user agent that is kept, in characters.
const LONGEST_AGENT: usize = 256;
/// Rows read at a time.
const PAGE: i64 = 2000;

impl AuditLogEntry {
    /// The row for an event, in the place `id` of the chain, after the row with the hash `previous`.
    fn after(id: i64, previous: &[u8], event: Event<'_>) -> Self {
        let origin = event.origin;
        let mut metadata = event.metadata;
        if let (Some(credential), Some(members)) = (&origin.credential, metadata.as_object_mut()) {
            members.insert("credential".to_owned(), credential.as_str().into());
        }
        let agent = |text: &String| text.chars().take(LONGEST_AGENT).collect();
        let mut entry = Self {
            id,
            created_at: event.at,
            event_type: event.event_type.to_owned(),
            user_id: event.user_id,
            actor: origin.actor.clone(),
            provider: event.provider.map(str::to_owned),
            ip_address: origin.ip_address.clone(),
            user_agent: origin.user_agent.as_ref().map(agent),
            object: event.object,
            success: event.error.is_none(),
            error_code: event.error.map(str::to_owned),
            metadata: metadata.to_string(),
            request_id: origin.request_id.clone(),
            hash: Vec::new(),
        };
        entry.hash = entry.hash_after(previous);
        entry
    }

    /// SHA-256 over the hash before it and every column, as a JSON list.
    fn hash_after(&self, previous: &[u8]) -> Vec<u8> {
        let covered = json!([
            self.id,
            self.created_at.and_utc().timestamp_millis(),
            self.event_type,
            self.user_id,
            self.actor,
            self.provider,
            self.ip_address,
            self.user_agent,
            self.object,
            self.success,
            self.error_code,
            self.metadata,
            self.request_id,
        ]);
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(previous);
        context.update(covered.to_string().as_bytes());
        context.finish().as_ref().to_vec()
    }
}

/// Inside a transaction: appends an event to the chain.
pub(crate) trait Append {
    /// # Errors
    /// [`Unwritten`]; the transaction must not go on.
    async fn append(&mut self, event: Event<'_>) -> Result<(), Unwritten>;
}

macro_rules! appends {
    ($($connection:ty),*) => {$(
        impl Append for $connection {
            async fn append(&mut self, event: Event<'_>) -> Result<(), Unwritten> {
                // Changing the chain's row takes its lock: appends of all instances come one after another.
                let next = audit_chain::last_id.eq(audit_chain::last_id + 1);
                let (id, previous): (i64, Vec<u8>) = diesel::update(audit_chain::table)
                    .set(next)
                    .returning((audit_chain::last_id, audit_chain::last_hash))
                    .get_result(self)
                    .await
                    .map_err(Unwritten)?;
                let taken = Taken::by(&event);
                let entry = AuditLogEntry::after(id, &previous, event);
                let insert = diesel::insert_into(audit_logs::table).values(&entry);
                insert.execute(self).await.map_err(Unwritten)?;
                let end = audit_chain::last_hash.eq(&entry.hash);
                diesel::update(audit_chain::table).set(end).execute(self).await.map_err(Unwritten)?;
                if let Some(taken) = taken {
                    taken.note();
                }
                Ok(())
            }
        }
    )*};
}
appends!(diesel_async::AsyncPgConnection, SqliteAsync);

/// Whether the log is what was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows that were looked at and hold.
    pub checked: u64,
    /// The first row that is not what it was, or the place of one that is missing.
    pub first_bad_id: Option<i64>,
}

/// Both ends of the chain: id and hash.
type Ends = (i64, Vec<u8>, i64, Vec<u8>);

async fn ends(conn: &mut Conn) -> Result<Ends, DbError> {
    let query = audit_chain::table.select((
        audit_chain::start_id,
        audit_chain::start_hash,
        audit_chain::last_id,
        audit_chain::last_hash,
    ));
    Ok(on_conn!(conn, c => query.first(c).await)?)
}

/// Walks the chain from its start to its end.
///
/// # Errors
/// The database's.
pub async fn verify(conn: &mut Conn) -> Result<Verdict, DbError> {
    const TRIES: usize = 3;
    let mut verdict = Verdict::default();
    for _ in 0..TRIES {
        let before = ends(conn).await?;
        verdict = walk(conn, &before).await?;
        // Retention that ran meanwhile took rows away that were to be looked at.
        if verdict.first_bad_id.is_none() || ends(conn).await?.0 == before.0 {
            break;
        }
    }
    Ok(verdict)
}

/// Everything up to the end as it was: rows appended meanwhile are for the next look.
async fn walk(conn: &mut Conn, ends: &Ends) -> Result<Verdict, DbError> {
    let (start_id, start_hash, last_id, last_hash) = ends;
    let (start_id, last_id) = (*start_id, *last_id);
    let mut verdict = Verdict::default();
    let (mut previous, mut before) = (start_hash.clone(), start_id);
    while before < last_id {
        let page: Vec<AuditLogEntry> = on_conn!(conn, c => {
            audit_logs::table
                .filter(audit_logs::id.gt(before).and(audit_logs::id.le(last_id)))
                .order(audit_logs::id)
                .limit(PAGE)
                .select(AuditLogEntry::as_select())
                .load(c)
                .await
        })?;
        let Some(last) = page.last().map(|entry| entry.id) else { break };
        for entry in page {
            if entry.id != before + 1 || entry.hash != entry.hash_after(&previous) {
                return Ok(Verdict { first_bad_id: Some(before + 1), ..verdict });
            }
            (previous, before) = (entry.hash, entry.id);
            verdict.checked += 1;
        }
        before = last;
    }
    if before != last_id || previous != *last_hash {
        return Ok(Verdict { first_bad_id: Some(before + 1), ..verdict });
    }
    // Behind the end there is nothing. The newest row is read before the end: what is appended between moves both.
    let newest = audit_logs::table.select(audit_logs::id).order(audit_logs::id.desc());
    let newest: Option<i64> = on_conn!(conn, c => newest.first(c).await.optional())?;
    let end = self::ends(conn).await?.2;
    if let Some(id) = newest.filter(|newest| *newest > end) {
        return Ok(Verdict { first_bad_id: Some(id), ..verdict });
    }
    if !start_is_vouched_for(conn, start_id, start_hash).await? {
        verdict.first_bad_id = Some(start_id);
    }
    Ok(verdict)
}

/// The newest retention says through which row it removed. A chain that was never shortened starts at its beginning, or
/// after rows from before there was a chain.
async fn start_is_vouched_for(
    conn: &mut Conn,
    start_id: i64,
    start_hash: &[u8],
) -> Result<bool, DbError> {
    let Some(newest) = AuditLogEntry::newest(conn, RETENTION).await? else {
        let old = audit_logs::table.filter(audit_logs::id.le(start_id)).count();
        let old: i64 = on_conn!(conn, c => old.get_result(c).await)?;
        return Ok(start_id == 0 || old > 0);
    };
    let said: serde_json::Value = serde_json::from_str(&newest.metadata).unwrap_or_default();
    Ok(said["through_id"] == start_id && said["through_hash"] == hex::encode(start_hash))
}
