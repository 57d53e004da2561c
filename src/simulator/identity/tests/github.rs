//! OAuth 2 as GitHub does it.

use super::*;

const AUTHORIZE: &str = "/login/oauth/authorize";
const TOKEN: &str = "/login/oauth/access_token";

fn authorization<'a>() -> Pairs<'a> {
    vec![
        ("client_id", "demo-client"),
        ("redirect_uri", CALLBACK),
        ("scope", "read:user user:email"),
        ("state", STATE),
    ]
}

fn exchange(code: &str) -> Pairs<'_> {
    let secret = "simulated-client-secret-of-the-demo";
    vec![("client_id", "demo-client"), ("client_secret", secret), ("code", code)]
}

async fn code(client: &Client, extra: &[(&str, &str)]) -> String {
    let mut pairs = authorization();
    pairs.push(("person", "1001"));
    pairs.extend(extra);
    let mut callback = client.post(AUTHORIZE, &pairs).await.callback();
    assert!(!callback.contains_key("iss"));
    callback.remove("code").unwrap()
}

/// With a client which accepts JSON.
async fn token(client: &Client, pairs: &[(&str, &str)]) -> Answer {
    let request = client.http.post(client.url(TOKEN)).content_type(request::FORM);
    client.send(request.insert_header(("accept", "application/json")), form(pairs)).await
}

async fn access_token(client: &Client, extra: &[(&str, &str)]) -> String {
    let answer = token(client, &exchange(&code(client, extra).await)).await;
    text(&answer.json(), "access_token").to_owned()
}

#[actix_web::test]
async fn a_person_signs_in_and_is_described() {
    let client = Client::start().await;

    let answer = token(&client, &exchange(&code(&client, &[]).await)).await;

    let tokens = answer.json();
    assert_eq!((answer.status, text(&tokens, "token_type")), (200, "bearer"));
    assert_eq!(tokens["scope"], "read:user,user:email");
    assert_eq!(tokens.get("id_token"), None);
    let access_token = text(&tokens, "access_token");
    assert!(access_token.starts_with("gho_"));
    let user = client.bearer("/user", access_token).await.json();
    assert_eq!(user["id"], json!(1001));
    assert_eq!((text(&user, "login"), text(&user, "name")), ("admin", "Demo Admin"));
    assert_eq!(user["email"], Value::Null);
    let emails = client.bearer("/user/emails", access_token).await.json();
    assert_eq!(emails[0]["verified"], json!(false));
    let address = json!({
        "email": "admin@example.com", "primary": true, "verified": true, "visibility": "public",
    });
    assert_eq!(emails[1], address);
}

#[actix_web::test]
async fn answers_are_forms_unless_json_is_accepted() {
    let client = Client::start().await;

    let good = client.post(TOKEN, &exchange(&code(&client, &[]).await)).await;
    let bad = client.post(TOKEN, &exchange("made-up")).await;

    assert_eq!(good.header("content-type"), request::FORM);
    assert!(good.text().starts_with("access_token=gho_"), "{}", good.text());
    assert_eq!(bad.status, 200);
    assert!(bad.text().starts_with("error=bad_verification_code&"), "{}", bad.text());
}

#[actix_web::test]
async fn errors_come_with_status_200() {
    let client = Client::start().await;
    let good = code(&client, &[]).await;
    let used = code(&client, &[]).await;
    token(&client, &exchange(&used)).await;
    let elsewhere = "http://localhost:3000/auth/callback/other";

    for (pairs, error) in [
        (exchange("made-up"), "bad_verification_code"),
        (exchange(&used), "bad_verification_code"),
        (with(exchange(&good), "client_secret", Some("wrong")), "incorrect_client_credentials"),
        (with(exchange(&good), "grant_type", Some("refresh_token")), "unsupported_grant_type"),
        (with(exchange(&good), "redirect_uri", Some(elsewhere)), "redirect_uri_mismatch"),
    ] {
        let answer = token(&client, &pairs).await;

        assert_eq!((answer.status, answer.error().as_str()), (200, error));
    }
}

#[actix_web::test]
async fn pkce_is_checked_when_it_is_used() {
    let client = Client::start().await;
    let challenged = [("code_challenge", CHALLENGE), ("code_challenge_method", "S256")];
    let verifier = Some(VERIFIER);

    let (right, wrong) = (code(&client, &challenged).await, code(&client, &challenged).await);
    let unasked = code(&client, &[]).await;
    let right = token(&client, &with(exchange(&right), "code_verifier", verifier)).await;
    let wrong = token(&client, &exchange(&wrong)).await;
    let unasked = token(&client, &with(exchange(&unasked), "code_verifier", verifier)).await;

    assert_eq!(right.error(), "");
    assert_eq!(wrong.error(), "bad_verification_code");
    assert_eq!(unasked.error(), "bad_verification_code");
}

#[actix_web::test]
async fn the_surfaces_do_not_take_each_others_codes_and_tokens() {
    let client = Client::start().await;
    let challenged = [("code_challenge", CHALLENGE), ("code_challenge_method", "S256")];

    let github_code = code(&client, &challenged).await;
    let openid_code = client.code("1001", &[]).await;
    let github_token = access_token(&client, &[]).await;
    let openid_tokens = client.tokens("1001", &[]).await;

    assert_eq!(client.exchange(&github_code).await.error(), "invalid_grant");
    let crossed = with(exchange(&openid_code), "code_verifier", Some(VERIFIER));
    assert_eq!(token(&client, &crossed).await.error(), "bad_verification_code");
    assert_eq!(client.bearer("/userinfo", &github_token).await.status, 401);
    assert_eq!(client.bearer("/user", text(&openid_tokens, "access_token")).await.status, 401);
}

#[actix_web::test]
async fn the_user_wants_a_user_agent_and_a_token() {
    let client = Client::start().await;
    let access_token = access_token(&client, &[]).await;
    let silent = awc::Client::default(); // sends no name

    let nameless = silent.get(client.url("/user")).bearer_auth(&access_token);
    let nameless = client.send(nameless, Vec::new()).await;
    let old = client.http.get(client.url("/user"));
    let old = old.insert_header(("authorization", format!("token {access_token}")));
    let old = client.send(old, Vec::new()).await;

    assert_eq!((nameless.status, old.status), (403, 200));
    assert_eq!(client.get("/user").await.status, 401);
    let unknown = client.bearer("/user/emails", "gho_made-up").await;
    assert_eq!((unknown.status, text(&unknown.json(), "message")), (401, "Bad credentials"));
}

#[actix_web::test]
async fn addresses_want_their_scope() {
    let client = Client::start().await;
    let mut pairs = with(authorization(), "scope", Some("read:user,repo"));
    pairs.push(("person", "1001"));

    let callback = client.post(AUTHORIZE, &pairs).await.callback();
    let tokens = token(&client, &exchange(&callback["code"])).await.json();

    let access_token = text(&tokens, "access_token");
    assert_eq!(tokens["scope"], "read:user,repo");
    assert_eq!(client.bearer("/user", access_token).await.status, 200);
    assert_eq!(client.bearer("/user/emails", access_token).await.status, 404);
}

#[actix_web::test]
async fn faults_concern_this_surface_too() {
    let client = Client::start().await;
    let emails = async |fault| {
        let token = access_token(&client, &[("fault", fault)]).await;
        client.bearer("/user/emails", &token).await.json()
    };

    assert_eq!(emails("no_email").await, json!([]));
    assert_eq!(emails("email_verified_false").await[1]["verified"], json!(false));
    assert_eq!(emails("email_verified_missing").await[1].get("verified"), None);
    assert_eq!(emails("two_ats").await[1]["email"], "a@evil.example@example.com");
    let token = access_token(&client, &[("fault", "html_name")]).await;
    let user = client.bearer("/user", &token).await.json();
    assert!(text(&user, "name").contains("<script>"));
}

#[actix_web::test]
async fn a_subject_which_is_no_number_has_always_the_same_one() {
    let client = Client::start().await;
    client.provider.change_person(Person::new("someone", "someone@example.com", "Someone"));
    let mut pairs = authorization();
    pairs.push(("person", "someone"));

    let mut numbers = Vec::new();
    for _ in 0..2 {
        let callback = client.post(AUTHORIZE, &pairs).await.callback();
        let tokens = token(&client, &exchange(&callback["code"])).await.json();
        let user = client.bearer("/user", text(&tokens, "access_token")).await.json();
        numbers.push(user["id"].as_u64().unwrap());
    }

    assert_eq!(numbers[0], numbers[1]);
    assert!(numbers[0] < 1 << 53);
}
