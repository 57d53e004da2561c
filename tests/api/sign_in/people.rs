//! Who somebody is: a provider and a subject, and never an address.

use std::time::Duration;

use bedrock_sso_proxy::simulator::identity::Person;

use super::*;
use crate::helpers::{ADMIN, MODEL, eventually, message as hello, on_both_databases};

async fn at(app: &TestServer, provider: &str, fields: &[(&str, &str)]) -> (Browser, Reply) {
    let browser = app.browser();
    let back = way_back(&browser, provider, fields).await;
    let end = browser.get(&back).await;
    (browser, end)
}

async fn me(browser: &Browser) -> serde_json::Value {
    browser.get("/auth/me").await.json()
}

on_both_databases!(one_subject_or_address_at_two_providers_is_two_people, backend => {
    let app = two_providers().backend(backend).start().await;
    // And a third, whom an operator made with the same address, and their key.
    let key = app.create_key("developer@example.com").await;
    let local = app.get("/auth/me").bearer(&key).send().await.json();

    let (first, _) = at(&app, "sso", &[("person", DEVELOPER)]).await;
    let (second, _) = at(&app, "other", &[("person", DEVELOPER)]).await;

    let (first, second) = (me(&first).await, me(&second).await);
    for (one, other) in [(&first, &second), (&first, &local), (&second, &local)] {
        assert_ne!(one["id"], other["id"]);
        assert_eq!(one["email"], other["email"]);
    }
    assert_eq!(count(&app, "users").await, 3);
});

#[actix_web::test]
async fn an_admin_s_address_at_a_provider_that_makes_none_gives_nothing() {
    let app = two_providers().start().await;
    let (trusted, _) = at(&app, "sso", &[("person", ADMIN_SUBJECT)]).await;

    let (other, end) = at(&app, "other", &[("person", ADMIN_SUBJECT)]).await;

    assert_eq!(end.status, 302, "{end:?}");
    assert_eq!(
        (&me(&trusted).await["admin"], &me(&other).await["admin"]),
        (&true.into(), &false.into())
    );
    assert_eq!(other.get("/api/admin/users").await.status, 403);
}

on_both_databases!(what_the_provider_says_anew_counts_from_the_next_sign_in, backend => {
    let app = unlimited().backend(backend).start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let before = me(&browser).await;

    app.identity().change_person(Person::new(DEVELOPER, "New@Example.COM", "New Name"));
    let same = me(&browser).await;
    let after = me(&app.signed_in(DEVELOPER).await).await;

    assert_eq!(same["email"], before["email"], "not before");
    assert_eq!((&after["id"], &after["email"]), (&before["id"], &"new@example.com".into()));
    assert_eq!(after["display_name"], "New Name");

    // An address that is gone is gone here too.
    let nobody = Person::new(DEVELOPER, "", "");
    app.identity().change_person(Person { email: None, name: None, ..nobody });
    let after = me(&app.signed_in(DEVELOPER).await).await;
    assert_eq!((&after["email"], &after["email_verified"]), (&serde_json::Value::Null, &false.into()));
    assert_eq!(count(&app, "users").await, 1);
});

on_both_databases!(who_was_disabled_stays_outside_until_an_admin_says_otherwise, backend => {
    let app = unlimited().backend(backend).start().await;
    let (admin, browser) = (app.signed_in(ADMIN_SUBJECT).await, app.signed_in(DEVELOPER).await);
    let id = person(&app, "sso", DEVELOPER).await.unwrap().id;
    let state = format!("/api/admin/users/{id}/state");
    let disabled = serde_json::json!({"state": "disabled"});
    assert_eq!(admin.api("PUT", &state, Some(&disabled)).await.status, 200);

    assert_eq!(browser.get("/").await.status, 303, "the session has ended");
    let (again, end) = at(&app, "sso", &[("person", DEVELOPER)]).await;

    assert_eq!(end.status, 403, "{end:?}");
    assert!(said(&end).contains("disabled"), "{}", said(&end));
    assert_eq!(again.cookie("bedrock_session"), None);
    assert_eq!(events(&app, "sign_in_failed").await[0].error_code.as_deref(), Some("disabled"));
    let known = person(&app, "sso", DEVELOPER).await.unwrap();
    assert_eq!((known.state.as_str(), known.id), ("disabled", id));

    let active = serde_json::json!({"state": "active"});
    assert_eq!(admin.api("PUT", &state, Some(&active)).await.status, 200);
    assert_eq!(browser.get("/").await.status, 303, "what ended stays so");
    app.signed_in(DEVELOPER).await;
});

on_both_databases!(who_was_not_vouched_for_comes_back_by_signing_in, backend => {
    let app = unlimited().backend(backend).start().await;
    app.signed_in(DEVELOPER).await;
    sql(&app, "UPDATE users SET state = 'expired'").await;

    let browser = app.signed_in(DEVELOPER).await;

    assert_eq!(me(&browser).await["state"], "active");
});

on_both_databases!(an_admin_is_made_and_unmade_by_their_address_and_it_is_written_down, backend => {
    let app = unlimited().backend(backend).start().await;
    let plain = app.signed_in(DEVELOPER).await;
    assert_eq!(me(&plain).await["admin"], false);

    app.identity().change_person(Person::new(DEVELOPER, "ADMIN@example.com", "x"));
    let admin = app.signed_in(DEVELOPER).await;
    app.revalidate().await;

    assert_eq!(me(&admin).await["admin"], true);
    assert_eq!(admin.get("/api/admin/users").await.status, 200);
    assert_eq!(plain.get("/").await.status, 303, "a session from before has ended");
    let gained = events(&app, "admin_gained").await;
    assert_eq!((gained.len(), gained[0].provider.as_deref()), (1, Some("sso")));

    let unverified = Person::new(DEVELOPER, ADMIN, "x");
    app.identity().change_person(Person { email_verified: "true".into(), ..unverified });
    let after = app.signed_in(DEVELOPER).await;
    app.revalidate().await;

    assert_eq!(me(&after).await["admin"], false);
    assert_eq!(after.get("/api/admin/users").await.status, 403);
    assert_eq!(admin.get("/").await.status, 303, "a session from before has ended");
    assert_eq!(admin.get("/api/admin/users").await.status, 401);
    assert_eq!(events(&app, "admin_lost").await.len(), 1);
    app.signed_in(DEVELOPER).await;
    assert_eq!(events(&app, "admin_lost").await.len(), 1, "no change, no event");
});

on_both_databases!(ten_first_sign_ins_at_once_make_one_person, backend => {
    let app = unlimited().backend(backend).start().await;
    for (round, subject) in [DEVELOPER, ADMIN_SUBJECT, OTHER_COMPANY].into_iter().enumerate() {
        let mut ways = Vec::new();
        for _ in 0..10 {
            let browser = app.browser();
            let back = way_back(&browser, "sso", &[("person", subject)]).await;
            ways.push((browser, back));
        }

        let ends = ways.iter().map(|(browser, back)| browser.get(back));
        let ends = futures_util::future::join_all(ends).await;

        assert!(ends.iter().all(|end| end.status == 302), "{subject}: {ends:?}");
        assert_eq!(count(&app, "users").await as usize, round + 1, "{subject}");
        assert_eq!(events(&app, "user_created").await.len(), round + 1, "{subject}");
    }
    assert_eq!(events(&app, "admin_gained").await.len(), 1);
    let verdict = app.get("/api/admin/audit-logs/verify").bearer(&app.create_token(ADMIN).await);
    let verdict = verdict.send().await.json();
    assert!(verdict["first_bad_id"].is_null(), "{verdict}");
});

on_both_databases!(a_new_sign_in_takes_the_place_of_the_browser_s_session_and_of_no_other, backend => {
    let app = unlimited().backend(backend).start().await;
    let (browser, elsewhere) = (app.signed_in(DEVELOPER).await, app.signed_in(DEVELOPER).await);
    let before = browser.copy();

    for subject in [DEVELOPER, OTHER_COMPANY] {
        let end = browser.sign_in(subject).await;

        assert_eq!(end.status, 302, "{end:?}");
        assert_ne!(browser.cookie("bedrock_session"), before.cookie("bedrock_session"));
        app.revalidate().await;
        assert_eq!(before.get("/auth/me").await.status, 401, "as {subject}");
    }
    assert_eq!(elsewhere.get("/auth/me").await.status, 200);
});

/// A disabling that comes between the look at a person and their update, made so by a lock that the test holds.
#[actix_web::test]
async fn a_sign_in_under_way_does_not_undo_that_somebody_was_disabled() {
    let app = unlimited().backend(crate::helpers::Backend::Postgres).start().await;
    app.signed_in(DEVELOPER).await;
    let browser = app.browser();
    let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;
    let pool = app.pool().await;
    let Conn::Postgres(mut conn) = pool.writer().await.unwrap() else { panic!("Postgres") };
    use diesel_async::SimpleAsyncConnection;
    conn.batch_execute("BEGIN; UPDATE users SET state = 'disabled' WHERE subject = '1002'")
        .await
        .unwrap();

    let admin = async {
        let waits = eventually(Duration::from_secs(5), || async {
            count(&app, "pg_locks WHERE NOT granted").await > 0
        });
        assert!(waits.await, "the sign-in waits for the person's row");
        conn.batch_execute("COMMIT").await.unwrap();
    };
    let (end, ()) = futures_util::join!(browser.get(&back), admin);

    assert_eq!(end.status, 403, "{end:?}");
    assert_eq!(person(&app, "sso", DEVELOPER).await.unwrap().state, "disabled");
    assert_eq!(browser.cookie("bedrock_session"), None);
}

// Who takes which lock first must not depend on who asks: on Postgres one of the two would be broken off.
on_both_databases!(signing_in_and_being_disabled_at_once_end_in_one_of_both, backend => {
    let app = unlimited().backend(backend).start().await;
    let admin = app.signed_in(ADMIN_SUBJECT).await;
    app.signed_in(DEVELOPER).await;
    let id = person(&app, "sso", DEVELOPER).await.unwrap().id;
    let path = format!("/api/admin/users/{id}/state");
    let csrf = admin.csrf().await;
    let set = |state: &str| {
        let body = serde_json::json!({ "state": state });
        let request = admin.request("PUT", &path).header("x-csrf-token", &csrf);
        request.header("content-type", JSON).json(&body).send()
    };
    for round in 0..8 {
        assert_eq!(set("active").await.status, 200);
        let mut ways = Vec::new();
        for _ in 0..4 {
            let browser = app.browser();
            let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;
            ways.push((browser, back));
        }

        let ends = futures_util::future::join_all(ways.iter().map(|(browser, back)| browser.get(back)));
        let (ends, disabled) = futures_util::join!(ends, set("disabled"));

        assert_eq!(disabled.status, 200, "round {round}: {disabled:?}");
        for end in ends {
            assert!(matches!(end.status.as_u16(), 302 | 403), "round {round}: {end:?}");
        }
        assert_eq!(person(&app, "sso", DEVELOPER).await.unwrap().state, "disabled", "round {round}");
        let live = format!("sessions WHERE ended_at IS NULL AND user_id = {id}");
        assert_eq!(count(&app, &live).await, 0, "round {round}");
    }
});

#[actix_web::test]
async fn a_browser_s_session_opens_no_model() {
    let app = unlimited().start().await;
    let browser = app.signed_in(DEVELOPER).await;
    let csrf = browser.csrf().await;

    let call = app.call(MODEL, "invoke", &hello("hi"));
    let call = call.header("cookie", browser.cookies()).header("x-csrf-token", csrf);
    let reply = call.header("sec-fetch-site", "same-origin").send().await;

    assert_eq!(reply.status, 401, "{reply:?}");
}
