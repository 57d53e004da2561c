//! Each fault does what it says, and nothing else.

use aws_lc_rs::hmac;
use jsonwebtoken::errors::ErrorKind;

use super::*;

/// The claims of a token signed in with `fault`, unchecked.
async fn claims(client: &Client, fault: Fault) -> Value {
    let tokens = client.tokens("1001", &[("fault", fault.name())]).await;
    part(text(&tokens, "id_token"), 1)
}

/// Names of the claims in which `fault` differs from a token without any.
async fn changed(client: &Client, fault: Fault) -> Vec<String> {
    let good = part(text(&client.tokens("1001", &[]).await, "id_token"), 1);
    let bad = claims(client, fault).await;
    let names = ["iss", "sub", "aud", "azp", "nonce", "email", "email_verified", "name"];
    let differ = names.iter().filter(|name| good.get(name) != bad.get(name));
    let mut differ: Vec<_> = differ.map(|name| (*name).to_owned()).collect();
    for (name, offset) in [("iat", 0), ("exp", 3600)] {
        let given = bad.get(name).and_then(Value::as_i64);
        if given.is_none_or(|at| (at - offset - now()).abs() > 5) {
            differ.push(name.to_owned());
        }
    }
    differ
}

async fn refused(client: &Client, fault: Fault) -> ErrorKind {
    let tokens = client.tokens("1001", &[("fault", fault.name())]).await;
    client.verify(&tokens).await.unwrap_err().into_kind()
}

#[test]
fn every_fault_has_a_name_of_its_own_and_a_description() {
    assert_eq!(FAULTS.len(), Fault::ALL.len());
    for (fault, (name, what)) in Fault::ALL.iter().zip(FAULTS) {
        assert_eq!(fault.name(), *name);
        assert_eq!(name.parse(), Ok(*fault));
        assert_eq!(fault.description(), *what);
        assert!(what.ends_with('.'), "{what}");
    }
    assert_eq!("nothing".parse::<Fault>(), Err(UnknownFault));
}

#[actix_web::test]
async fn one_claim_is_wrong_and_the_others_are_right() {
    let client = Client::start().await;

    for (fault, expected) in [
        (Fault::WrongIssuer, &["iss"][..]),
        (Fault::WrongAudience, &["aud"]),
        (Fault::ExtraAudience, &["aud", "azp"]),
        (Fault::WrongAzp, &["azp"]),
        (Fault::Expired, &["exp"]),
        (Fault::IssuedInFuture, &["iat", "exp"]),
        (Fault::NoExp, &["exp"]),
        (Fault::NoIat, &["iat"]),
        (Fault::NoSub, &["sub"]),
        (Fault::WrongNonce, &["nonce"]),
        (Fault::NoNonce, &["nonce"]),
        (Fault::EmptySubject, &["sub"]),
        (Fault::IntegerSubject, &["sub"]),
        (Fault::TamperedPayload, &["name"]),
        (Fault::UserinfoOtherSubject, &[]),
        (Fault::EmailVerifiedFalse, &["email_verified"]),
        (Fault::EmailVerifiedMissing, &["email_verified"]),
        (Fault::EmailVerifiedString, &["email_verified"]),
        (Fault::NoEmail, &["email", "email_verified"]),
        (Fault::TwoAts, &["email"]),
        (Fault::Homograph, &["email"]),
        (Fault::TrailingDot, &["email"]),
        (Fault::HtmlName, &["name"]),
        (Fault::WrongIss, &[]),
    ] {
        assert_eq!(changed(&client, fault).await, expected, "{fault}");
    }
}

#[actix_web::test]
async fn wrong_claims_are_what_they_are_called() {
    let client = Client::start().await;
    let at = |claims: &Value, name: &str| claims[name].as_i64().unwrap() - now();

    assert_eq!(claims(&client, Fault::WrongIssuer).await["iss"], "https://other-provider.example");
    assert_eq!(
        claims(&client, Fault::ExtraAudience).await["aud"],
        json!(["demo-client", "other-client"])
    );
    assert!((-3605..=-3595).contains(&at(&claims(&client, Fault::Expired).await, "exp")));
    assert!((3595..=3605).contains(&at(&claims(&client, Fault::IssuedInFuture).await, "iat")));
    for (fault, name) in [
        (Fault::NoExp, "exp"),
        (Fault::NoIat, "iat"),
        (Fault::NoSub, "sub"),
        (Fault::NoNonce, "nonce"),
        (Fault::NoEmail, "email"),
        (Fault::EmailVerifiedMissing, "email_verified"),
        (Fault::ExtraAudience, "azp"),
    ] {
        assert_eq!(claims(&client, fault).await.get(name), None, "{fault}");
    }
    assert_eq!(claims(&client, Fault::TwoAts).await["email"], "a@evil.example@example.com");
    assert_eq!(claims(&client, Fault::TrailingDot).await["email"], "a@example.com.");
    assert!(!claims(&client, Fault::Homograph).await["email"].as_str().unwrap().is_ascii());
    assert_eq!(claims(&client, Fault::EmailVerifiedString).await["email_verified"], "true");
    let name = claims(&client, Fault::HtmlName).await["name"].as_str().unwrap().to_owned();
    for part in ["=", "<script>", "\"", "'", "\r\n", "\0", "\u{1b}"] {
        assert!(name.contains(part), "{part:?}");
    }
    assert!(name.starts_with('='));
}

#[actix_web::test]
async fn a_library_refuses_every_wrong_signature() {
    let client = Client::start().await;

    assert!(matches!(refused(&client, Fault::ForeignKey).await, ErrorKind::InvalidSignature));
    assert!(matches!(refused(&client, Fault::TamperedPayload).await, ErrorKind::InvalidSignature));
    assert!(matches!(refused(&client, Fault::UnknownKid).await, ErrorKind::InvalidKeyFormat));
    assert!(matches!(refused(&client, Fault::WrongIssuer).await, ErrorKind::InvalidIssuer));
    assert!(matches!(refused(&client, Fault::WrongAudience).await, ErrorKind::InvalidAudience));
    assert!(matches!(refused(&client, Fault::Expired).await, ErrorKind::ExpiredSignature));
    for fault in [Fault::AlgNone, Fault::Hs256WithClientSecret, Fault::Hs256WithPublicKey] {
        refused(&client, fault).await;
    }
}

#[actix_web::test]
async fn forged_tokens_are_forged_as_they_say() {
    let client = Client::start().await;
    let token = async |fault: Fault| {
        let tokens = client.tokens("1001", &[("fault", fault.name())]).await;
        text(&tokens, "id_token").to_owned()
    };
    let authentic = |token: &str, secret: &[u8]| {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        hmac::verify(&key, message.as_bytes(), &signature).is_ok()
    };

    let none = token(Fault::AlgNone).await;
    let by_secret = token(Fault::Hs256WithClientSecret).await;
    let by_key = token(Fault::Hs256WithPublicKey).await;
    let foreign = token(Fault::ForeignKey).await;

    assert_eq!(part(&none, 0)["alg"], "none");
    assert!(none.ends_with('.'));
    assert_eq!(part(&by_secret, 0)["alg"], "HS256");
    assert!(authentic(&by_secret, IdentityConfig::default().client_secret.as_bytes()));
    let pem = client.provider.world.keys().pem(SigningAlgorithm::Rs256);
    assert_eq!(part(&by_key, 0)["alg"], "HS256");
    assert!(authentic(&by_key, pem.as_bytes()));
    let keys = client.get("/jwks").await.json();
    assert_eq!(part(&foreign, 0)["kid"], keys["keys"][0]["kid"]);
    let no_token = client.tokens("1001", &[("fault", "no_id_token")]).await;
    assert_eq!(no_token.get("id_token"), None);
    assert!(no_token["access_token"].is_string());
}

#[actix_web::test]
async fn userinfo_has_the_subject_of_the_fault() {
    let client = Client::start().await;

    for (fault, sub) in [
        (Fault::EmptySubject, json!("")),
        (Fault::IntegerSubject, json!(1001)),
        (Fault::UserinfoOtherSubject, json!("1001-other")),
        (Fault::NoSub, json!("1001")),
    ] {
        let tokens = client.tokens("1001", &[("fault", fault.name())]).await;

        assert_eq!(client.userinfo(&tokens).await.json()["sub"], sub, "{fault}");
    }
}

#[actix_web::test]
async fn callbacks_go_wrong_as_they_say() {
    let client = Client::start().await;
    let callback = async |fault| client.callback("1001", &[("fault", fault)]).await.callback();

    let wrong_iss = callback("wrong_iss").await;
    let no_state = callback("no_state").await;
    let wrong_state = callback("wrong_state").await;
    let error = callback("error_with_html").await;

    assert_eq!(wrong_iss["iss"], "https://other-provider.example");
    assert!(wrong_iss.contains_key("code") && no_state.contains_key("code"));
    assert!(!no_state.contains_key("state"));
    assert!(wrong_state.contains_key("code") && wrong_state["state"] != STATE);
    assert_eq!(error["error"], "access_denied");
    assert_eq!(error["error_description"].chars().count(), 5_000);
    assert!(error["error_description"].contains("<script>"));
    assert_eq!(error["state"], STATE);
    assert!(!error.contains_key("code"));
}

#[actix_web::test]
async fn the_token_endpoint_fails_as_it_says() {
    let client = Client::start().await;
    let answer =
        async |fault| client.exchange(&client.code("1001", &[("fault", fault)]).await).await;

    let error = answer("token_error").await;
    let page = answer("token_not_json").await;

    assert_eq!(error.status, 500);
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(serde_json::from_slice::<Value>(&page.body).is_err());
    assert_eq!(client.provider.ledger().last().unwrap().fault, Some(Fault::TokenNotJson));
}

#[actix_web::test]
async fn a_refresh_which_fails_for_a_while_uses_nothing_up() {
    let client = Client::start().await;
    let tokens = client.tokens("1001", &[]).await;
    let token = text(&tokens, "refresh_token");

    client.provider.misbehave(Some(Fault::RefreshTemporarilyFails));
    let failed = client.refresh(token).await;
    let signed_in = client.tokens("1002", &[]).await;
    client.provider.misbehave(None);
    let refreshed = client.refresh(token).await;

    assert_eq!((failed.status, refreshed.status), (503, 200));
    client.verify(&signed_in).await.unwrap();
}

#[actix_web::test]
async fn a_fault_of_one_sign_in_can_be_that_of_all_and_ends_at_once() {
    let client = Client::start().await;

    client.provider.misbehave(Some(Fault::WrongNonce));
    let bad = client.tokens("1001", &[]).await;
    client.provider.misbehave(None);
    let good = client.tokens("1001", &[]).await;

    assert_ne!(part(text(&bad, "id_token"), 1)["nonce"], NONCE);
    assert_eq!(part(text(&good, "id_token"), 1)["nonce"], NONCE);
}

#[actix_web::test]
async fn discovery_and_key_set_lie_as_they_say() {
    let client = Client::start().await;
    let document = async |fault| {
        client.provider.misbehave(Some(fault));
        client.get("/.well-known/openid-configuration").await.json()
    };

    let other = document(Fault::DiscoveryOtherIssuer).await;
    let plain = document(Fault::DiscoveryPlainHttpEndpoint).await;
    let tokens = client.tokens("1001", &[]).await;
    client.provider.misbehave(Some(Fault::ManyKeys));
    let keys = client.get("/jwks").await.json();
    let verified = client.verify(&tokens).await;
    client.provider.misbehave(Some(Fault::JwksDown));
    let down = client.get("/jwks").await;

    assert_eq!(other["issuer"], "https://other-provider.example");
    assert_eq!(plain["token_endpoint"], "http://169.254.169.254/token");
    assert_eq!(plain["issuer"], client.provider.issuer());
    assert_eq!(keys["keys"].as_array().unwrap().len(), 200);
    verified.unwrap();
    assert_eq!(down.status, 503);
}

#[actix_web::test]
async fn userinfo_can_be_down_by_itself() {
    let client = Client::start().await;
    let tokens = client.tokens("1001", &[]).await;

    client.provider.misbehave(Some(Fault::UserinfoDown));

    assert_eq!(client.userinfo(&tokens).await.status, 503);
    assert_eq!(client.get("/user").await.status, 503);
    assert_eq!(client.get("/jwks").await.status, 200);
}

/// Everything a client calls, for the faults which concern it all.
const CALLED: [&str; 4] = ["/.well-known/openid-configuration", "/jwks", "/userinfo", "/user"];

#[actix_web::test]
async fn a_provider_which_is_down_closes_the_connection_without_an_answer() {
    let client = Client::start().await;

    client.provider.misbehave(Some(Fault::Down));

    for path in CALLED {
        assert!(client.http.get(client.url(path)).send().await.is_err(), "{path}");
    }
    let page = client.get(&format!("/authorize?{}", query(&authorization()))).await;
    assert_eq!(page.status, 200);
    let calls = client.provider.ledger().calls();
    assert!(calls.iter().any(|call| call.fault == Some(Fault::Down) && call.status == 0));
    client.provider.misbehave(None);
    assert_eq!(client.get("/jwks").await.status, 200);
}

#[actix_web::test]
async fn a_redirecting_provider_leads_to_the_metadata_address() {
    let client = Client::start().await;
    let code = client.code("1001", &[]).await;

    client.provider.misbehave(Some(Fault::RedirectToMetadata));

    for path in CALLED {
        let answer = client.get(path).await;
        assert_eq!(answer.status, 302, "{path}");
        assert_eq!(answer.header("location"), "http://169.254.169.254/latest/meta-data/");
    }
    assert_eq!(client.exchange(&code).await.status, 302);
}

#[actix_web::test]
async fn a_huge_answer_does_not_end_and_does_not_say_how_long_it_is() {
    let client = Client::start().await;

    client.provider.misbehave(Some(Fault::Huge));

    for path in CALLED {
        let mut response = client.http.get(client.url(path)).send().await.unwrap();
        assert_eq!(response.headers().get("content-length"), None);
        assert!(response.body().limit(3 << 20).await.is_err(), "{path}");
    }
}

#[actix_web::test]
async fn a_slow_provider_has_not_answered_after_a_while() {
    let client = Client::start().await;

    client.provider.misbehave(Some(Fault::Slow));

    let wait = Duration::from_millis(300);
    let answer = client.http.get(client.url("/jwks")).timeout(wait).send().await;
    assert!(answer.is_err());
    let call = client.provider.ledger().last().unwrap();
    assert_eq!((call.path.as_str(), call.status), ("/jwks", 0));
}
