//! The provider's keys change, or are said to.

use super::*;

#[actix_web::test]
async fn new_keys_are_fetched_once_and_then_known() {
    let app = unlimited().start().await;
    app.signed_in(DEVELOPER).await;
    assert_eq!(app.identity().ledger().jwks_requests(), 1);

    app.identity().rotate_keys();
    for _ in 0..3 {
        app.signed_in(DEVELOPER).await;
    }

    assert_eq!(app.identity().ledger().jwks_requests(), 2);
    assert_eq!(app.identity().ledger().discovery_requests(), 1);
}

#[actix_web::test]
async fn who_comes_while_new_keys_are_fetched_waits_for_them() {
    let app = unlimited().start().await;
    app.signed_in(DEVELOPER).await;
    let mut ways = Vec::new();
    for _ in 0..10 {
        let browser = app.browser();
        let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;
        ways.push((browser, back));
    }
    app.identity().rotate_keys();

    let ends =
        futures_util::future::join_all(ways.iter().map(|(browser, back)| browser.get(back))).await;

    for end in ends {
        assert_eq!(end.status, 302, "{end:?}");
    }
    assert_eq!(app.identity().ledger().jwks_requests(), 2);
}

#[actix_web::test]
async fn keys_that_nobody_knows_are_asked_for_once_a_minute_at_most() {
    let app = unlimited().start().await;
    for _ in 0..8 {
        let end =
            app.browser().sign_in_with(&[("person", DEVELOPER), ("fault", "unknown_kid")]).await;

        assert_eq!(end.status, 403, "{end:?}");
    }
    assert_eq!(app.identity().ledger().jwks_requests(), 2, "at the start, and once more");
    app.signed_in(DEVELOPER).await;
    assert_eq!(app.identity().ledger().jwks_requests(), 2, "nothing that is known was lost");
}
