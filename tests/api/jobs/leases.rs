//! Leases and runs, at times that the tests choose.

use bedrock_sso_proxy::db::{
    Conn, DbError, Pool, Timestamp,
    audit::Origin,
    jobs::{self as runs, Claim, Ending, LEASE_SECONDS},
    levels::{Fence, Level},
    period::Period,
    retention,
    summaries::build::{self, Built, Scope},
};
use chrono::TimeDelta;

use super::{JOB, dump, fill, idle, runs_of, spoil};
use crate::helpers::on_both_databases;

/// So many seconds after some noon.
fn at(seconds: i64) -> Timestamp {
    let noon: Timestamp = "2026-11-27T12:00:00".parse().unwrap();
    noon + TimeDelta::seconds(seconds)
}

const HOUR: i64 = 3600;

fn taken(claim: Claim) -> (i64, i64) {
    match claim {
        Claim::Taken { run_id, token } => (run_id, token),
        other => panic!("{other:?}"),
    }
}

async fn claim(conn: &mut Conn, slot: Option<i64>, holder: &str, now: i64) -> Claim {
    runs::claim(conn, JOB, slot.map(at), holder, at(now)).await.unwrap()
}

async fn finish(conn: &mut Conn, (run_id, token): (i64, i64), ending: Ending, now: i64) {
    runs::finish(conn, JOB, run_id, token, (ending, Some(3), "done"), at(now)).await.unwrap();
}

on_both_databases!(a_lease_is_held_while_it_is_renewed_and_given_back_in_the_end, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    let mut conn = pool.writer().await.unwrap();

    let (run, token) = taken(claim(&mut conn, Some(0), "a:1", 1).await);
    let second = claim(&mut conn, Some(0), "b:1", 2).await;
    assert!(runs::renew(&mut conn, JOB, token, at(20)).await.unwrap());
    let third = claim(&mut conn, None, "b:1", LEASE_SECONDS + 15).await;
    assert!(!runs::is_free(&mut conn, JOB, at(LEASE_SECONDS + 15)).await.unwrap());
    finish(&mut conn, (run, token), Ending::Success, LEASE_SECONDS + 16).await;

    let until = |seconds: i64| Claim::Running { holder: "a:1".to_owned(), until: at(seconds) };
    assert_eq!(second, until(1 + LEASE_SECONDS));
    assert_eq!(third, until(20 + LEASE_SECONDS));
    assert!(runs::is_free(&mut conn, JOB, at(LEASE_SECONDS + 16)).await.unwrap());
    let done = runs::run(&mut conn, run).await.unwrap().unwrap();
    assert_eq!((done.outcome.as_deref(), done.rows, done.message.as_deref()), (Some("success"), Some(3), Some("done")));
    assert_eq!((done.slot, done.started_at, done.finished_at), (Some(at(0)), at(1), Some(at(LEASE_SECONDS + 16))));
    assert_eq!(claim(&mut conn, Some(0), "b:1", 60).await, Claim::SlotDone);
    let (next, higher) = taken(claim(&mut conn, Some(60), "b:1", 61).await);
    assert!(next > run && higher > token);
});

on_both_databases!(whoever_lost_a_lease_can_neither_renew_nor_finish_nor_write, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    fill(&pool, 10).await;
    spoil(&pool).await;
    let before = dump(&pool).await;
    let hour = before.0.iter().find(|row| row.period_type == "hourly").unwrap().period_start;
    let mut conn = pool.writer().await.unwrap();
    let old = taken(claim(&mut conn, Some(0), "a:1", 1).await);

    let new = taken(claim(&mut conn, Some(0), "b:1", 1 + LEASE_SECONDS).await);

    assert!(new.0 == old.0 && new.1 > old.1, "the slot's run, by another");
    assert!(!runs::renew(&mut conn, JOB, old.1, at(40)).await.unwrap());
    finish(&mut conn, old, Ending::Failed, 41).await;
    let run = runs::run(&mut conn, new.0).await.unwrap().unwrap();
    assert_eq!((run.outcome, run.attempt, run.instance.as_str()), (None, 2, "b:1"));
    assert!(!runs::is_free(&mut conn, JOB, at(41)).await.unwrap());
    let everything = Scope::default();
    let lost = Some(Fence { job: JOB, token: old.1 });
    for (what, error) in [
        ("again", build::again(&mut conn, lost.as_ref(), Period::Hourly, hour, &everything).await.err()),
        ("next", build::next(&mut conn, lost.as_ref(), Period::Daily, at(0)).await.err()),
        ("mark", retention::mark(&mut conn, lost.as_ref(), Level::Records, at(0), at(0), &Origin::service()).await.err()),
        ("remove", retention::remove_some(&mut conn, lost.as_ref(), Level::Records, 10).await.err()),
    ] {
        assert!(matches!(error, Some(DbError::LeaseLost(JOB))), "{what}: {error:?}");
    }
    assert_eq!(dump(&pool).await, before);

    let held = Some(Fence { job: JOB, token: new.1 });
    let built = build::again(&mut conn, held.as_ref(), Period::Hourly, hour, &everything).await.unwrap();
    assert!(matches!(built, Built::Done(changed) if changed.corrected > 0), "{built:?}");
});

on_both_databases!(a_clock_that_steps_by_an_hour_runs_no_slot_twice_and_holds_nothing_up, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    let mut conn = pool.writer().await.unwrap();

    // While a run goes on.
    let first = taken(claim(&mut conn, Some(0), "a:1", 1).await);
    for now in [-HOUR, HOUR, 2] {
        assert!(runs::renew(&mut conn, JOB, first.1, at(now)).await.unwrap());
    }
    finish(&mut conn, first, Ending::Success, 3 - HOUR).await;
    // After it.
    for now in [4, 4 + HOUR, 5 - HOUR, 6, 6 - HOUR] {
        assert_eq!(claim(&mut conn, Some(0), "b:1", now).await, Claim::SlotDone, "at {now}");
    }
    let by_hand = taken(claim(&mut conn, None, "a:1", 10).await);
    finish(&mut conn, by_hand, Ending::Success, 11).await;
    let again = taken(claim(&mut conn, None, "a:1", 12 - HOUR).await);
    finish(&mut conn, again, Ending::Success, 13 - HOUR).await;
    // Somebody whose clock is fast takes over, and who had the run before is kept out.
    let slow = taken(claim(&mut conn, Some(60), "a:1", 61).await);
    let fast = taken(claim(&mut conn, Some(60), "b:1", 62 + HOUR).await);
    assert!(slow.0 == fast.0 && fast.1 > slow.1);
    assert!(!runs::renew(&mut conn, JOB, slow.1, at(63)).await.unwrap());
    finish(&mut conn, fast, Ending::Success, 64 + HOUR).await;
    assert_eq!(claim(&mut conn, Some(60), "a:1", 65).await, Claim::SlotDone);

    let of_slots = runs_of(&pool, JOB).await.into_iter().filter(|run| run.slot.is_some()).count();
    assert_eq!(of_slots, 2);
});

on_both_databases!(a_run_that_died_is_taken_up_again_five_times_in_all, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    let mut conn = pool.writer().await.unwrap();
    let mut ids = Vec::new();
    for attempt in 1..=5 {
        let (id, token) = taken(claim(&mut conn, Some(0), "a:1", attempt * 100).await);
        ids.push(id);
        let run = runs::run(&mut conn, id).await.unwrap().unwrap();
        assert_eq!((run.attempt, run.token, run.outcome), (attempt, token, None));
    }

    assert_eq!(claim(&mut conn, Some(0), "a:1", 1000).await, Claim::SlotDone);

    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let run = runs::run(&mut conn, ids[0]).await.unwrap().unwrap();
    assert_eq!((run.outcome.as_deref(), run.finished_at), (Some("interrupted"), Some(at(1000))));
    taken(claim(&mut conn, Some(60), "a:1", 1001).await);
});

on_both_databases!(a_run_that_was_stopped_is_taken_up_again_and_one_that_failed_is_not, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    let mut conn = pool.writer().await.unwrap();

    let first = taken(claim(&mut conn, Some(0), "a:1", 1).await);
    finish(&mut conn, first, Ending::Stopped, 2).await;
    assert_eq!(runs::last_slot(&mut conn, JOB).await.unwrap(), Some((at(0), false)));
    let again = taken(claim(&mut conn, Some(0), "a:1", 3).await);
    finish(&mut conn, again, Ending::Failed, 4).await;

    assert_eq!(first.0, again.0);
    assert_eq!(runs::last_slot(&mut conn, JOB).await.unwrap(), Some((at(0), true)));
    assert_eq!(claim(&mut conn, Some(0), "a:1", 5).await, Claim::SlotDone);
});

on_both_databases!(a_run_by_hand_stands_beside_those_of_the_slots, backend => {
    let app = idle(backend).start().await;
    let pool = app.pool().await;
    let mut conn = pool.writer().await.unwrap();

    let by_hand = taken(claim(&mut conn, None, "hand:1", 1).await);
    assert!(matches!(claim(&mut conn, Some(0), "a:1", 2).await, Claim::Running { holder, .. } if holder == "hand:1"));
    finish(&mut conn, by_hand, Ending::Success, 3).await;
    assert_eq!(runs::last_slot(&mut conn, JOB).await.unwrap(), None);
    let of_slot = taken(claim(&mut conn, Some(0), "a:1", 4).await);
    // It died, and so nobody waits for it for longer than its lease.
    let other = taken(claim(&mut conn, None, "hand:2", 4 + LEASE_SECONDS).await);

    assert!(by_hand.0 < of_slot.0 && of_slot.0 < other.0);
    let died = runs::run(&mut conn, of_slot.0).await.unwrap().unwrap();
    assert_eq!((died.outcome.as_deref(), died.slot), (Some("interrupted"), Some(at(0))));
    // Other jobs have leases of their own.
    let elsewhere = runs::claim(&mut conn, "usage_cleanup", Some(at(0)), "a:1", at(5)).await.unwrap();
    taken(elsewhere);
});

on_both_databases!(of_ten_who_claim_at_once_one_wins, backend => {
    let app = idle(backend).start().await;
    let pools: Vec<Pool> = (0..10).map(|_| Pool::open(&app.settings.database).unwrap()).collect();
    for slot in [Some(at(0)), None] {
        let now = at(if slot.is_some() { 1 } else { 100 });
        let claims = pools.iter().enumerate().map(|(number, pool)| async move {
            let mut conn = pool.writer().await.unwrap();
            runs::claim(&mut conn, JOB, slot, &format!("a:{number}"), now).await.unwrap()
        });
        let claims = futures_util::future::join_all(claims).await;

        let won: Vec<_> = (0..).zip(&claims).filter(|(_, claim)| matches!(claim, Claim::Taken { .. })).collect();
        assert_eq!(won.len(), 1, "{claims:?}");
        let winner = format!("a:{}", won[0].0);
        let told = claims.iter().filter(|claim| matches!(claim, Claim::Running { holder, .. } if *holder == winner));
        assert_eq!(told.count(), 9, "{claims:?}");
    }
    assert_eq!(runs_of(&pools[0], JOB).await.len(), 2);
});
