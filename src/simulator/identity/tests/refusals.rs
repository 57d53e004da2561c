//! What a strict provider refuses.

use super::*;

/// Both ways to ask must refuse alike.
async fn ask(client: &Client, pairs: &[(&str, &str)]) -> [Answer; 2] {
    let mut hinted = pairs.to_vec();
    if !pairs.iter().any(|(name, _)| *name == "prompt") {
        hinted.extend([("prompt", "none"), ("login_hint", "1001")]);
    }
    let mut posted = pairs.to_vec();
    posted.push(("person", "1001"));
    [
        client.get(&format!("/authorize?{}", query(&hinted))).await,
        client.post("/authorize", &posted).await,
    ]
}

#[actix_web::test]
async fn a_wrong_client_or_address_is_told_on_a_page_and_never_by_redirect() {
    let client = Client::start().await;

    for (name, value) in [
        ("client_id", None),
        ("client_id", Some("other-client")),
        ("redirect_uri", None),
        ("redirect_uri", Some("https://evil.example/auth/callback/test")),
        ("redirect_uri", Some("http://localhost.evil.example/auth/callback/test")),
        ("redirect_uri", Some("http://localhost@evil.example/auth/callback/test")),
        ("redirect_uri", Some("http://me@localhost:3000/auth/callback/test")),
        ("redirect_uri", Some("http://127.0.0.2:3000/auth/callback/test")),
        ("redirect_uri", Some("ftp://localhost:3000/auth/callback/test")),
        ("redirect_uri", Some("http://localhost:3000/elsewhere")),
        ("redirect_uri", Some("http://localhost:3000/auth/callback/../../elsewhere")),
        ("redirect_uri", Some("http://localhost:3000/auth/callback/")),
        ("redirect_uri", Some("http://localhost:3000/auth/callback/test#part")),
        ("redirect_uri", Some("http://localhost:3000/auth/callback/test?next=x")),
        ("redirect_uri", Some("javascript:alert(1)")),
    ] {
        for answer in ask(&client, &with(authorization(), name, value)).await {
            assert_eq!(answer.status, 400, "{name} {value:?}");
            assert_eq!(answer.header("location"), "");
        }
    }
}

#[actix_web::test]
async fn an_address_given_twice_is_refused_on_a_page() {
    let client = Client::start().await;
    let mut pairs = authorization();
    pairs.push(("redirect_uri", "https://evil.example/"));

    for answer in ask(&client, &pairs).await {
        assert_eq!((answer.status, answer.header("location")), (400, ""));
    }
}

#[actix_web::test]
async fn any_loopback_name_will_do_while_none_is_registered() {
    let client = Client::start().await;

    for host in ["localhost:1", "127.0.0.1:65535", "[::1]:8080", "localhost"] {
        let uri = format!("http://{host}/auth/callback/any");
        for answer in ask(&client, &with(authorization(), "redirect_uri", Some(&uri))).await {
            assert_eq!(answer.status, 302, "{uri}");
            assert!(answer.header("location").starts_with(&uri));
        }
    }
}

#[actix_web::test]
async fn a_registered_address_is_compared_as_text() {
    let registered = "https://proxy.example/auth/callback/test";
    let redirect_uris = vec![registered.to_owned()];
    let client = Client::of(IdentityConfig { redirect_uris, ..IdentityConfig::default() }).await;

    for (uri, status) in [
        (registered, 302),
        ("https://proxy.example:443/auth/callback/test", 400),
        ("https://PROXY.example/auth/callback/test", 400),
        ("https://proxy.example/auth/callback/test/", 400),
        (CALLBACK, 400),
    ] {
        for answer in ask(&client, &with(authorization(), "redirect_uri", Some(uri))).await {
            assert_eq!(answer.status, status, "{uri}");
        }
    }
}

#[actix_web::test]
async fn other_mistakes_are_told_to_the_client() {
    let client = Client::start().await;
    let (short, long, odd) = ("a".repeat(42), "a".repeat(129), format!("{CHALLENGE}+"));

    for (name, value, error) in [
        ("response_type", None, "invalid_request"),
        ("response_type", Some("token"), "unsupported_response_type"),
        ("response_type", Some("code id_token"), "unsupported_response_type"),
        ("response_mode", Some("fragment"), "invalid_request"),
        ("scope", None, "invalid_scope"),
        ("state", None, "invalid_request"),
        ("nonce", None, "invalid_request"),
        ("code_challenge", None, "invalid_request"),
        ("code_challenge", Some(short.as_str()), "invalid_request"),
        ("code_challenge", Some(long.as_str()), "invalid_request"),
        ("code_challenge", Some(odd.as_str()), "invalid_request"),
        ("code_challenge_method", None, "invalid_request"),
        ("code_challenge_method", Some("plain"), "invalid_request"),
        ("prompt", Some("none login"), "invalid_request"),
        ("request", Some("e30.e30."), "request_not_supported"),
        ("request_uri", Some("https://evil.example/"), "request_uri_not_supported"),
    ] {
        for answer in ask(&client, &with(authorization(), name, value)).await {
            let callback = answer.callback();

            assert_eq!(callback["error"], error, "{name} {value:?}");
            assert_eq!(
                callback.get("state").map(String::as_str),
                (name != "state").then_some(STATE)
            );
            assert_eq!(callback["iss"], client.provider.issuer());
            assert!(!callback.contains_key("code"));
        }
    }
}

#[actix_web::test]
async fn a_parameter_given_twice_is_refused() {
    let client = Client::start().await;
    let mut pairs = authorization();
    pairs.push(("state", "another"));

    for answer in ask(&client, &pairs).await {
        assert_eq!(answer.callback()["error"], "invalid_request");
    }
}

#[actix_web::test]
async fn nobody_is_signed_in_silently_without_a_hint() {
    let client = Client::start().await;

    for hint in [None, Some("nobody@example.com")] {
        let pairs = with(authorization(), "prompt", Some("none"));
        let pairs = with(pairs, "login_hint", hint);
        let answer = client.get(&format!("/authorize?{}", query(&pairs))).await;

        assert_eq!(answer.callback()["error"], "login_required");
    }
}

#[actix_web::test]
async fn a_form_with_a_stranger_or_an_unknown_fault_is_refused_on_a_page() {
    let client = Client::start().await;

    for (person, fault) in [("9999", ""), ("", ""), ("1001", "unheard_of"), ("1001", "down")] {
        let answer = client.callback(person, &[("fault", fault)]).await;

        assert_eq!(answer.status, 400, "{person} {fault}");
    }
}

#[actix_web::test]
async fn a_code_used_twice_revokes_what_it_gave() {
    let client = Client::start().await;
    let code = client.code("1001", &[]).await;
    let tokens = client.exchange(&code).await.json();

    let again = client.exchange(&code).await;

    assert_eq!((again.status, again.error().as_str()), (400, "invalid_grant"));
    assert_eq!(client.userinfo(&tokens).await.status, 401);
    assert_eq!(client.refresh(text(&tokens, "refresh_token")).await.error(), "invalid_grant");
}

#[actix_web::test]
async fn an_exchange_must_repeat_what_was_asked() {
    let client = Client::start().await;
    let other_verifier = "x".repeat(43);

    for (name, value, error) in [
        ("redirect_uri", None, "invalid_request"),
        ("redirect_uri", Some("http://localhost:3000/auth/callback/other"), "invalid_grant"),
        ("code_verifier", None, "invalid_grant"),
        ("code_verifier", Some(other_verifier.as_str()), "invalid_grant"),
        ("code_verifier", Some(CHALLENGE), "invalid_grant"),
        ("code", None, "invalid_request"),
        ("code", Some("made-up"), "invalid_grant"),
        ("grant_type", None, "invalid_request"),
        ("grant_type", Some("password"), "unsupported_grant_type"),
        ("grant_type", Some("client_credentials"), "unsupported_grant_type"),
    ] {
        let code = client.code("1001", &[]).await;
        let answer = client.post_basic("/token", &with(exchange(&code), name, value)).await;

        assert_eq!((answer.status, answer.error().as_str()), (400, error), "{name} {value:?}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

#[actix_web::test]
async fn a_client_with_a_wrong_secret_is_refused_before_the_code_is_used() {
    let client = Client::start().await;
    let code = client.code("1001", &[]).await;
    let config = IdentityConfig::default();
    let request = || client.http.post(client.url("/token")).content_type(request::FORM);

    for (id, secret) in [
        ("demo-client", "wrong"),
        ("other", config.client_secret.as_str()),
        ("demo-client", ""),
        ("", ""),
    ] {
        let by_header = request().basic_auth(id, secret);
        let by_header = client.send(by_header, form(&exchange(&code))).await;
        let mut pairs = exchange(&code);
        pairs.extend([("client_id", id), ("client_secret", secret)]);
        let by_form = client.post("/token", &pairs).await;

        for answer in [by_header, by_form] {
            assert_eq!((answer.status, answer.error().as_str()), (401, "invalid_client"));
            assert!(answer.header("www-authenticate").starts_with("Basic realm="));
        }
    }
    let broken = request().insert_header(("authorization", "Basic !!!"));
    assert_eq!(client.send(broken, form(&exchange(&code))).await.status, 401);
    assert_eq!(client.exchange(&code).await.status, 200);
}

#[actix_web::test]
async fn malformed_token_requests_are_refused() {
    let client = Client::start().await;
    let (code, config) = (client.code("1001", &[]).await, IdentityConfig::default());
    let basic = |path: &str| {
        let request = client.http.post(client.url(path));
        request.basic_auth(&config.client_id, &config.client_secret)
    };
    let both = with(exchange(&code), "client_secret", Some(&config.client_secret));
    let other = with(exchange(&code), "client_id", Some("other-client"));
    let mut twice = exchange(&code);
    twice.push(("code", "another"));
    let good = exchange(&code);
    let as_json = serde_json::to_vec(&json!({ "grant_type": "authorization_code" })).unwrap();

    for (what, request, body) in [
        ("both methods", basic("/token").content_type(request::FORM), form(&both)),
        ("another client_id", basic("/token").content_type(request::FORM), form(&other)),
        ("a code twice", basic("/token").content_type(request::FORM), form(&twice)),
        ("a query", basic("/token?x=y").content_type(request::FORM), form(&good)),
        ("json", basic("/token").content_type("application/json"), as_json),
        ("no content type", basic("/token"), form(&good)),
    ] {
        let answer = client.send(request, body).await;

        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_request"), "{what}");
    }
    assert_eq!(client.exchange(&code).await.status, 200);
}

#[actix_web::test]
async fn refreshing_cannot_widen_a_scope() {
    let client = Client::start().await;
    let tokens = client.tokens("1001", &[]).await;
    let pairs = |scope| {
        let token = text(&tokens, "refresh_token");
        [("grant_type", "refresh_token"), ("refresh_token", token), ("scope", scope)]
    };

    let wider = client.post_basic("/token", &pairs("openid everything")).await;
    let narrower = client.post_basic("/token", &pairs("openid")).await;

    assert_eq!(wider.error(), "invalid_scope");
    assert_eq!(narrower.json()["scope"], "openid");
    assert_eq!(client.userinfo(&narrower.json()).await.json(), json!({ "sub": "1001" }));
}

#[actix_web::test]
async fn userinfo_wants_a_live_token_of_its_own() {
    let client = Client::start().await;

    let none = client.get("/userinfo").await;
    let unknown = client.bearer("/userinfo", "made-up").await;
    let basic = client.post_basic("/userinfo", &[]).await;

    for answer in [&none, &unknown, &basic] {
        assert_eq!(answer.status, 401);
        assert!(answer.header("www-authenticate").starts_with("Bearer realm="));
    }
    assert!(unknown.header("www-authenticate").contains("error=\"invalid_token\""));
    assert!(!none.header("www-authenticate").contains("error="));
}
