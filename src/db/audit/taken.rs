//! What takes access away is told to the log, too, so that it is known where logs are read and kept: by ids alone, and once
//! its transaction is committed.

use std::cell::RefCell;

use super::Event;

/// Types of events by which somebody loses access, or a role.
const TYPES: [&str; 8] = [
    "admin_lost",
    "key_revoked",
    "refresh_refused",
    "refresh_reused",
    "session_ended",
    "sessions_ended_by_admin",
    "sessions_ended_by_operator",
    "sign_in_code_reused",
];

tokio::task_local! {
    /// Of the transaction under way.
    static TAKEN: RefCell<Vec<Taken>>;
}

/// A loss of access.
pub(super) struct Taken {
    event: &'static str,
    object: String,
    user_id: Option<i64>,
    by: String,
    /// What the person is now, if that was changed.
    state: Option<String>,
    sessions: Option<u64>,
    reason: Option<String>,
}

impl Taken {
    /// What an event takes away, if it does.
    pub(super) fn by(event: &Event<'_>) -> Option<Self> {
        let changed = event.event_type == "user_state_changed";
        let state = event.metadata["after"].as_str().filter(|_| changed);
        if !TYPES.contains(&event.event_type) && state.is_none_or(|state| state == "active") {
            return None;
        }
        Some(Self {
            event: event.event_type,
            object: event.object.clone(),
            user_id: event.user_id,
            by: event.origin.actor.clone(),
            state: state.map(str::to_owned),
            sessions: event.metadata["sessions_ended"].as_u64(),
            reason: event.error.map(str::to_owned),
        })
    }

    /// It is appended to the audit log, by a transaction that is under way.
    pub(super) fn note(self) {
        // Whoever appends does it in an audited transaction; outside one there is nobody to tell it.
        let _noted = TAKEN.try_with(|taken| taken.borrow_mut().push(self));
    }

    fn tell(&self) {
        let Self { event, object, user_id, by, state, sessions, reason } = self;
        tracing::info!(
            event,
            object,
            user_id,
            by,
            state,
            sessions,
            reason,
            "access was taken away"
        );
    }
}

/// Carries a transaction out, and tells the log what it took away if it was committed.
pub(crate) async fn told<T, E>(transaction: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let told = async {
        let done = transaction.await;
        if done.is_ok() {
            TAKEN.with(|taken| taken.take().iter().for_each(Taken::tell));
        }
        done
    };
    TAKEN.scope(RefCell::default(), told).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::db::audit::{Origin, TYPES as ALL};

    #[test]
    fn what_takes_access_away_is_told_and_what_gives_it_is_not() {
        let origin = Origin::operator();
        let event = |event_type, metadata| Event {
            metadata,
            ..Event::new(crate::db::now(), event_type, &origin)
        };
        let is_told = |event_type, metadata| Taken::by(&event(event_type, metadata)).is_some();

        assert!(TYPES.iter().all(|name| ALL.contains(name)));
        assert!(is_told("key_revoked", serde_json::json!({})));
        for (state, told) in [("disabled", true), ("expired", true), ("active", false)] {
            let metadata = serde_json::json!({ "after": state });
            assert_eq!(is_told("user_state_changed", metadata), told, "{state}");
        }
        // A key's new name is called so, too.
        assert!(!is_told("key_renamed", serde_json::json!({ "after": "disabled" })));
        assert!(!is_told("sign_in", serde_json::json!({})));
    }

    #[actix_rt::test]
    async fn what_a_transaction_that_failed_would_have_taken_away_is_not_told() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let writer = Arc::new(log.reopen().unwrap());
        let subscriber = tracing_subscriber::fmt().with_writer(writer).finish();
        let _logging = tracing::subscriber::set_default(subscriber);
        let origin = Origin::operator();
        let transaction = async |object: &str, outcome: Result<(), ()>| {
            let event = Event::new(crate::db::now(), "key_revoked", &origin);
            Taken::by(&Event { object: object.to_owned(), ..event }).unwrap().note();
            outcome
        };

        let failed = told(transaction("api_key:1", Err(()))).await;
        let done = told(transaction("api_key:2", Ok(()))).await;

        assert_eq!((failed, done), (Err(()), Ok(())));
        let log = std::fs::read_to_string(log.path()).unwrap();
        assert!(log.contains("api_key:2") && !log.contains("api_key:1"), "{log}");
    }
}
