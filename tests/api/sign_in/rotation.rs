//! The provider's keys change, or are said to.

use super::*;
use crate::helpers::on_both_databases;

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

on_both_databases!(who_comes_while_new_keys_are_fetched_waits_for_them, backend => {
    let app = unlimited().backend(backend).start().await;
    app.signed_in(DEVELOPER).await;
    for round in 1..=2 {
        let mut ways = Vec::new();
        for _ in 0..20 {
            let browser = app.browser();
            let back = way_back(&browser, "sso", &[("person", DEVELOPER)]).await;
            ways.push((browser, back));
        }
        if round == 1 {
            app.identity().rotate_keys();
        }

        let ends = ways.iter().map(|(browser, back)| browser.get(back));
        let ends = futures_util::future::join_all(ends).await;

        for end in ends {
            assert_eq!(end.status, 302, "{end:?}");
        }
        assert_eq!(app.identity().ledger().jwks_requests(), 2);
    }
});

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
