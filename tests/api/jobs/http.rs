//! `/api/admin/jobs`.

use std::{collections::BTreeSet, time::Duration};

use bedrock_sso_proxy::{
    db::{
        self,
        jobs::{self as runs, Claim, Ending},
        users::UserRecord,
    },
    jobs::instance,
    settings::LOCAL_PROVIDER,
};
use serde_json::{Value, json};

use super::{JOB, fill, idle};
use crate::helpers::{ADMIN, PERSON, TestServer, TestServerBuilder, eventually, on_both_databases};

async fn job(app: &TestServer, admin: &str, name: &str) -> Value {
    let reply = app.get("/api/admin/jobs").bearer(admin).send().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let jobs = reply.json()["jobs"].as_array().unwrap().clone();
    jobs.into_iter().find(|job| job["name"] == name).unwrap()
}

fn members(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap();
    text.len() == "2026-11-21T09:30:00.000Z".len() && text.ends_with('Z')
}

on_both_databases!(jobs_are_listed_with_their_schedule_and_last_run, backend => {
    let app = TestServerBuilder::new().backend(backend).start().await;
    let pool = app.pool().await;
    fill(&pool, 3).await;
    let admin = app.create_token(ADMIN).await;

    let reply = app.get("/api/admin/jobs").bearer(&admin).send().await;
    let all = reply.json();
    let names: Vec<_> = all["jobs"].as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["usage_summaries", "usage_cleanup", "price_check", "audit_retention"]);
    let fresh = job(&app, &admin, JOB).await;
    let wanted = ["description", "enabled", "last_run", "name", "next_run_at", "schedule", "timezone"];
    assert_eq!((members(&all), members(&fresh)), (["jobs"].into(), wanted.into()));
    assert_eq!((&fresh["schedule"], &fresh["timezone"], &fresh["enabled"], &fresh["last_run"]),
               (&json!("0 2 * * *"), &json!("UTC"), &json!(true), &Value::Null));
    assert!(fresh["next_run_at"].as_str().unwrap().ends_with("T02:00:00.000Z"), "{fresh}");

    let asked = app.post(&format!("/api/admin/jobs/{JOB}/run")).bearer(&admin).send().await;
    assert_eq!(asked.status, 202, "{asked:?}");
    let run_id = asked.json()["run_id"].clone();
    assert!(run_id.is_i64() && members(&asked.json()) == ["run_id"].into(), "{asked:?}");
    let ended = eventually(Duration::from_secs(15), || async {
        job(&app, &admin, JOB).await["last_run"]["outcome"] == "success"
    });
    assert!(ended.await, "{}", job(&app, &admin, JOB).await);

    let run = job(&app, &admin, JOB).await["last_run"].clone();
    let wanted = ["finished_at", "instance", "message", "outcome", "rows", "run_id", "slot", "started_at"];
    assert_eq!(members(&run), wanted.into());
    assert_eq!((&run["run_id"], &run["instance"], &run["slot"]), (&run_id, &json!(instance()), &Value::Null));
    assert!(is_time(&run["started_at"]) && is_time(&run["finished_at"]), "{run}");
    assert!(run["rows"].as_i64().unwrap() > 0 && run["message"].as_str().unwrap().contains("daily: "), "{run}");
});

on_both_databases!(a_job_that_runs_is_not_started_again_and_who_asked_is_audited, backend => {
    let app = idle(backend).start().await;
    let admin = app.create_token(ADMIN).await;
    let pool = app.pool().await;
    let mut conn = pool.writer().await.unwrap();
    let admin_id = UserRecord::by_subject(&mut conn, LOCAL_PROVIDER, ADMIN).await.unwrap().unwrap().id;
    let Claim::Taken { run_id, token } = runs::claim(&mut conn, JOB, None, "another:7", db::now()).await.unwrap() else {
        panic!("it is free")
    };
    let ask = || app.post(&format!("/api/admin/jobs/{JOB}/run")).bearer(&admin).send();

    let refused = ask().await;
    let running = job(&app, &admin, JOB).await["last_run"].clone();
    runs::finish(&mut conn, JOB, run_id, token, (Ending::Success, Some(0), ""), db::now()).await.unwrap();
    drop(conn);
    let started = ask().await;

    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["code"]), (409, &json!("conflict")));
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("another:7"), "{refused:?}");
    assert_eq!((&running["run_id"], &running["outcome"], &running["finished_at"]), (&json!(run_id), &json!("running"), &Value::Null));
    assert_eq!(started.status, 202, "{started:?}");
    let events: Vec<_> = app.audit().await.into_iter().filter(|event| event.event_type == "job_run_asked").collect();
    assert_eq!(events.len(), 2);
    for event in events {
        assert_eq!((event.actor, event.object), (format!("user:{admin_id}"), format!("job:{JOB}")));
    }
});

#[actix_web::test]
async fn jobs_are_for_admins_and_an_unknown_one_is_not_found() {
    let app = idle(crate::helpers::Backend::Sqlite).start().await;
    let (admin, person) = (app.create_token(ADMIN).await, app.create_token(PERSON).await);
    let run = |name: &str| app.post(&format!("/api/admin/jobs/{name}/run"));

    for (reply, status) in [
        (app.get("/api/admin/jobs").send().await, 401),
        (app.get("/api/admin/jobs").bearer(&person).send().await, 403),
        (run(JOB).send().await, 401),
        (run(JOB).bearer(&person).send().await, 403),
        (run("nothing").bearer(&person).send().await, 403),
        (run("nothing").bearer(&admin).send().await, 404),
        (run("usage_reprice").bearer(&admin).send().await, 404),
        (run("%00").bearer(&admin).send().await, 404),
    ] {
        assert_eq!(reply.status.as_u16(), status, "{reply:?}");
    }
    let unknown = run("nothing").bearer(&admin).send().await;
    assert_eq!(unknown.json()["error"]["code"], "not_found");
    assert!(unknown.json()["error"]["message"].as_str().unwrap().contains("price_check"));
    assert_eq!(app.audited("job_run_asked").await, 0);
}
