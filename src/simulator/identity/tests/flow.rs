//! Signing in as it should be.

use openidconnect::core::{
    CoreIdToken, CoreIdTokenVerifier, CoreJsonWebKeySet, CoreProviderMetadata,
};
use openidconnect::{ClientId, ClientSecret, Nonce};

use super::*;

#[actix_web::test]
async fn discovery_tells_everything_a_client_needs() {
    let client = Client::start().await;

    let answer = client.get("/.well-known/openid-configuration").await;

    let (document, issuer) = (answer.json(), client.provider.issuer());
    assert_eq!(answer.status, 200);
    assert_eq!(document["issuer"], json!(issuer));
    for (name, path) in [
        ("authorization_endpoint", "/authorize"),
        ("token_endpoint", "/token"),
        ("userinfo_endpoint", "/userinfo"),
        ("jwks_uri", "/jwks"),
        ("revocation_endpoint", "/revoke"),
    ] {
        assert_eq!(document[name], json!(format!("{issuer}{path}")));
    }
    assert_eq!(document["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(document["authorization_response_iss_parameter_supported"], json!(true));
}

#[actix_web::test]
async fn a_person_signs_in_with_pkce_and_a_nonce() {
    let client = Client::start().await;

    let callback = client.callback("1001", &[]).await.callback();
    let answer = client.exchange(&callback["code"]).await;

    assert_eq!(callback["state"], STATE);
    assert_eq!(callback["iss"], client.provider.issuer());
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    let tokens = answer.json();
    assert_eq!(tokens["token_type"], "Bearer");
    assert_eq!(tokens["expires_in"], 3600);
    assert_eq!(tokens["scope"], SCOPE);
    let claims = client.verify(&tokens).await.unwrap();
    assert_eq!(claims["sub"], "1001");
    assert_eq!(claims["nonce"], NONCE);
    assert_eq!(claims["azp"], "demo-client");
    assert!((now() - claims["iat"].as_i64().unwrap()).abs() < 5);
    let userinfo = client.userinfo(&tokens).await.json();
    let expected = json!({
        "sub": "1001", "email": "admin@example.com", "email_verified": true, "name": "Demo Admin",
    });
    assert_eq!(userinfo, expected);
}

#[actix_web::test]
async fn the_id_token_names_its_access_token() {
    let client = Client::start().await;

    let tokens = client.tokens("1001", &[]).await;

    let access_token = text(&tokens, "access_token").as_bytes();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, access_token);
    let half = URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16]);
    assert_eq!(part(text(&tokens, "id_token"), 1)["at_hash"], json!(half));
}

#[actix_web::test]
async fn tokens_are_signed_with_the_elliptic_key_if_that_is_configured() {
    let signing = SigningAlgorithm::Es256;
    let client = Client::of(IdentityConfig { signing, ..IdentityConfig::default() }).await;

    let tokens = client.tokens("1002", &[]).await;

    assert_eq!(part(text(&tokens, "id_token"), 0)["alg"], "ES256");
    assert_eq!(client.verify(&tokens).await.unwrap()["sub"], "1002");
}

#[actix_web::test]
async fn the_page_offers_everyone_and_runs_no_script() {
    let client = Client::start().await;

    let request = with(authorization(), "state", Some("\"><script>alert(1)</script>"));
    let answer = client.get(&format!("/authorize?{}", query(&request))).await;

    let page = answer.text();
    assert_eq!(answer.status, 200);
    assert!(page.contains("Sign in as Demo Admin &lt;admin@example.com&gt;"), "{page}");
    assert!(page.contains("Sign in as No Address (no e-mail address)"), "{page}");
    assert!(page.contains("<option value=\"wrong_nonce\">"), "{page}");
    assert!(!page.contains("<option value=\"down\">"), "{page}");
    assert!(!page.contains("<script"), "{page}");
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'nonce-"), "{policy}");
    assert_eq!(answer.header("cache-control"), "no-store");
}

#[actix_web::test]
async fn a_test_signs_in_with_a_hint_and_no_page() {
    let client = Client::start().await;

    for hint in ["1002", "developer@example.com"] {
        let mut request = authorization();
        request.extend([("prompt", "none"), ("login_hint", hint)]);
        let callback = client.get(&format!("/authorize?{}", query(&request))).await.callback();
        let tokens = client.exchange(&callback["code"]).await.json();

        assert_eq!(client.verify(&tokens).await.unwrap()["sub"], "1002");
    }
}

#[actix_web::test]
async fn a_test_signs_in_by_sending_a_person_to_where_it_was_redirected() {
    let client = Client::start().await;
    let address = format!("/authorize?{}", query(&authorization()));

    let answer = client.post(&address, &[("person", "1002"), ("fault", "no_nonce")]).await;

    let tokens = client.exchange(&answer.callback()["code"]).await.json();
    let claims = client.verify(&tokens).await.unwrap();
    assert_eq!((&claims["sub"], claims.get("nonce")), (&json!("1002"), None));
}

#[actix_web::test]
async fn denying_leads_back_with_an_error() {
    let client = Client::start().await;

    let callback = client.callback("", &[("deny", "1")]).await.callback();

    assert_eq!(callback["error"], "access_denied");
    assert_eq!(callback["state"], STATE);
    assert!(!callback.contains_key("code"));
}

#[actix_web::test]
async fn a_secret_in_the_form_is_as_good_as_one_in_the_header() {
    let config = IdentityConfig {
        client_secret: "odd: secret+with %41 & = \u{fc}".to_owned(),
        ..IdentityConfig::default()
    };
    let secret = config.client_secret.clone();
    let client = Client::of(config).await;

    let code = client.code("1001", &[]).await;
    let mut pairs = exchange(&code);
    pairs.extend([("client_id", "demo-client"), ("client_secret", secret.as_str())]);
    let by_form = client.post("/token", &pairs).await;
    let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let code = client.code("1001", &[]).await;
    let request = client.http.post(client.url("/token")).content_type(request::FORM);
    let header = format!("basic {}", STANDARD.encode(format!("demo-client:{encoded}")));
    let request = request.insert_header(("authorization", header));
    let by_header = client.send(request, form(&exchange(&code))).await;

    assert_eq!((by_form.status, by_header.status), (200, 200));
}

#[actix_web::test]
async fn refreshing_gives_new_tokens_and_uses_the_old_one_up() {
    let client = Client::start().await;
    let tokens = client.tokens("1001", &[]).await;

    let refreshed = client.refresh(text(&tokens, "refresh_token")).await;
    let again = client.refresh(text(&tokens, "refresh_token")).await;

    let new = refreshed.json();
    assert_eq!(refreshed.status, 200);
    assert_ne!(new["refresh_token"], tokens["refresh_token"]);
    let claims = client.verify(&new).await.unwrap();
    assert_eq!(claims["sub"], "1001");
    assert_eq!(claims.get("nonce"), None);
    assert_eq!((again.status, again.error().as_str()), (400, "invalid_grant"));
    assert_eq!(client.userinfo(&new).await.status, 200);
}

#[actix_web::test]
async fn there_is_a_refresh_token_only_for_those_who_ask() {
    let client = Client::start().await;

    for (scope, access_type, expected) in [
        ("openid email", None, false),
        ("openid offline_access", None, true),
        ("openid", Some("offline"), true),
        ("openid", Some("online"), false),
    ] {
        let pairs = with(authorization(), "scope", Some(scope));
        let mut pairs = with(pairs, "access_type", access_type);
        pairs.push(("person", "1001"));
        let callback = client.post("/authorize", &pairs).await.callback();
        let tokens = client.exchange(&callback["code"]).await.json();

        assert_eq!(tokens.get("refresh_token").is_some(), expected, "{scope} {access_type:?}");
    }
}

#[actix_web::test]
async fn scopes_decide_what_is_told() {
    let client = Client::start().await;
    let mut pairs = with(authorization(), "scope", Some("openid"));
    pairs.push(("person", "1001"));

    let callback = client.post("/authorize", &pairs).await.callback();
    let tokens = client.exchange(&callback["code"]).await.json();

    assert_eq!(client.userinfo(&tokens).await.json(), json!({ "sub": "1001" }));
    assert_eq!(client.verify(&tokens).await.unwrap().get("email"), None);
}

#[actix_web::test]
async fn a_revoked_refresh_token_takes_its_access_tokens_along() {
    let client = Client::start().await;
    let tokens = client.tokens("1001", &[]).await;
    let other = client.tokens("1001", &[]).await;

    let pairs = [("token", text(&tokens, "refresh_token"))];
    let revoked = client.post_basic("/revoke", &pairs).await;

    assert_eq!(revoked.status, 200);
    assert_eq!(client.userinfo(&tokens).await.status, 401);
    assert_eq!(client.refresh(text(&tokens, "refresh_token")).await.error(), "invalid_grant");
    assert_eq!(client.userinfo(&other).await.status, 200);
    assert_eq!(client.post_basic("/revoke", &[("token", "unknown")]).await.status, 200);
    assert_eq!(client.post("/revoke", &[("token", "unknown")]).await.status, 401);
}

#[actix_web::test]
async fn a_closed_account_is_gone_everywhere() {
    let client = Client::start().await;
    let tokens = client.tokens("1002", &[]).await;
    let code = client.code("1002", &[]).await;

    client.provider.forget_person("1002");

    assert_eq!(client.refresh(text(&tokens, "refresh_token")).await.error(), "invalid_grant");
    assert_eq!(client.exchange(&code).await.error(), "invalid_grant");
    assert_eq!(client.userinfo(&tokens).await.status, 401);
    assert_eq!(client.callback("1002", &[]).await.status, 400);
    let page = client.get(&format!("/authorize?{}", query(&authorization()))).await;
    assert!(!page.text().contains("developer@example.com"));
}

#[actix_web::test]
async fn a_changed_person_is_told_anew() {
    let client = Client::start().await;
    let tokens = client.tokens("1002", &[]).await;

    client.provider.change_person(Person::new("1002", "new@example.com", "New Name"));
    client.provider.change_person(Person::new("2001", "added@example.com", "Added"));

    assert_eq!(client.userinfo(&tokens).await.json()["email"], "new@example.com");
    let added = client.tokens("2001", &[]).await;
    assert_eq!(client.verify(&added).await.unwrap()["email"], "added@example.com");
}

#[actix_web::test]
async fn after_a_rotation_the_old_key_is_gone_and_the_new_one_signs() {
    let client = Client::start().await;
    let before = client.tokens("1001", &[]).await;
    client.verify(&before).await.unwrap();

    client.provider.rotate_keys();

    let after = client.tokens("1001", &[]).await;
    assert!(client.verify(&before).await.is_err());
    client.verify(&after).await.unwrap();
    let kid = |tokens: &Value| part(text(tokens, "id_token"), 0)["kid"].clone();
    assert_ne!(kid(&before), kid(&after));
}

#[actix_web::test]
async fn the_ledger_tells_what_came_and_no_secret() {
    let client = Client::start().await;

    let tokens = client.tokens("1001", &[]).await;
    client.userinfo(&tokens).await;
    client.verify(&tokens).await.unwrap();
    client.refresh("made-up-refresh-token").await;
    let page = client.get("/_simulator/ledger").await;

    let ledger = client.provider.ledger();
    assert_eq!((ledger.token_requests(), ledger.userinfo_requests()), (2, 1));
    assert_eq!((ledger.jwks_requests(), ledger.discovery_requests()), (1, 0));
    let calls = ledger.calls();
    let told: Vec<_> = calls.iter().map(|call| (call.path.as_str(), call.status)).collect();
    let expected =
        [("/authorize", 302), ("/token", 200), ("/userinfo", 200), ("/jwks", 200), ("/token", 400)];
    assert_eq!(told, expected);
    assert_eq!(calls[1].presented["grant_type"], "authorization_code");
    assert_eq!(calls[1].presented["authorization"], "Basic ***");
    assert_eq!(calls[1].presented["code_verifier"], "***");
    assert_eq!(calls[1].subject.as_deref(), Some("1001"));
    assert_eq!(calls[4].outcome, "invalid_grant");
    assert_eq!(page.json().as_array().unwrap().len(), 5);
    for secret in [VERIFIER, STATE, NONCE, text(&tokens, "access_token"), "made-up", "c2ltdWxhdGVk"]
    {
        assert!(!page.text().contains(secret), "{secret}");
    }
}

#[actix_web::test]
async fn what_is_not_there_is_not_found_and_wrong_methods_are_told_the_right_ones() {
    let client = Client::start().await;

    assert_eq!(client.get("/nowhere").await.status, 404);
    for (path, allowed) in [("/token", "POST"), ("/jwks", "GET"), ("/userinfo", "GET, POST")] {
        let answer = client.send(client.http.delete(client.url(path)), Vec::new()).await;

        assert_eq!((answer.status, answer.header("allow")), (405, allowed));
    }
}

#[actix_web::test]
async fn a_stopped_provider_is_gone() {
    let client = Client::start().await;

    client.provider.stop().await;

    assert!(client.http.get(client.url("/jwks")).send().await.is_err());
}

#[actix_web::test]
async fn the_library_for_openid_clients_accepts_it_all() {
    let client = Client::start().await;
    let tokens = client.tokens("1001", &[]).await;

    let document = client.get("/.well-known/openid-configuration").await.json();
    let metadata: CoreProviderMetadata = serde_json::from_value(document).unwrap();
    let keys: CoreJsonWebKeySet = serde_json::from_value(client.get("/jwks").await.json()).unwrap();
    let verifier = CoreIdTokenVerifier::new_confidential_client(
        ClientId::new("demo-client".to_owned()),
        ClientSecret::new(IdentityConfig::default().client_secret),
        metadata.issuer().clone(),
        keys,
    );
    let token: CoreIdToken = text(&tokens, "id_token").parse().unwrap();
    let claims = token.claims(&verifier, &Nonce::new(NONCE.to_owned())).unwrap();

    assert_eq!(metadata.issuer().as_str(), client.provider.issuer());
    assert_eq!(claims.subject().as_str(), "1001");
    assert_eq!(claims.email_verified(), Some(true));
}
