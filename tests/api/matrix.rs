//! Every route with every kind of credential (SEC-75).

use bedrock_sso_proxy::routes::{Access, ROUTES};

use crate::helpers::{
    ADMIN, MODEL, PERSON, Request, TestServer, TestServerBuilder, message, messages,
};

/// What the caller brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credential {
    None,
    Cookie,
    Jwt,
    Key,
    AdminJwt,
    AdminKey,
    Unknown,
}

const ALL: [Credential; 7] = [
    Credential::None,
    Credential::Cookie,
    Credential::Jwt,
    Credential::Key,
    Credential::AdminJwt,
    Credential::AdminKey,
    Credential::Unknown,
];

struct Held {
    jwt: String,
    key: String,
    admin_jwt: String,
    admin_key: String,
}

impl Held {
    async fn by(app: &TestServer) -> Self {
        Self {
            jwt: app.create_token(PERSON).await,
            key: app.create_key(PERSON).await,
            admin_jwt: app.create_token(ADMIN).await,
            admin_key: app.create_key(ADMIN).await,
        }
    }

    fn on(&self, request: Request, credential: Credential) -> Request {
        match credential {
            Credential::None => request,
            Credential::Cookie => request.header("cookie", format!("__Host-session={}", self.jwt)),
            Credential::Jwt => request.bearer(&self.jwt),
            Credential::Key => request.bearer(&self.key),
            Credential::AdminJwt => request.bearer(&self.admin_jwt),
            Credential::AdminKey => request.bearer(&self.admin_key),
            Credential::Unknown => request.bearer(&format!("SSOK_{}", "a".repeat(32))),
        }
    }
}

fn known(credential: Credential) -> bool {
    !matches!(credential, Credential::None | Credential::Cookie | Credential::Unknown)
}

fn request(app: &TestServer, method: &'static str, path: &str) -> Request {
    let path = &path.replace("{model_id}", MODEL).replace("{id}", "claude-sonnet-4-5");
    let request = app.get(path).method(method);
    let converse = path.contains("/converse");
    match method {
        "POST" if path.ends_with("/count-tokens") => request.json(&serde_json::json!({
            "input": {"converse": crate::helpers::conversation("hi")}})),
        "POST" if path.starts_with("/anthropic") => request.json(&messages("hi")),
        "POST" if converse => request.json(&crate::helpers::conversation("hi")),
        "POST" => request.json(&message("hi")),
        _ => request,
    }
}

async fn walk(docs: bool) {
    let app = TestServerBuilder::new().set("SERVER__DOCS", docs).start().await;
    let held = Held::by(&app).await;
    for (method, path, access) in ROUTES {
        for credential in ALL {
            let path = match path {
                // The model id of count_tokens is a foundation id.
                path if path.ends_with("count-tokens") => {
                    path.replace("{model_id}", "anthropic.claude-sonnet-4-20250514-v1:0")
                }
                path => (*path).to_owned(),
            };
            let wanted = match access {
                Access::Public => 200,
                Access::Docs if docs || known(credential) => 200,
                Access::Caller if known(credential) => 200,
                Access::Admin if credential == Credential::AdminJwt => 200,
                Access::Admin if known(credential) => 403,
                Access::Docs | Access::Caller | Access::Admin => 401,
            };

            let reply = held.on(request(&app, method, &path), credential).send().await;

            assert_eq!(
                reply.status.as_u16(),
                wanted,
                "{method} {path} with {credential:?}: {reply:?}"
            );
            if wanted == 401 {
                assert!(reply.header("www-authenticate").is_some(), "{method} {path}");
            }
        }
    }
}

#[actix_web::test]
async fn every_route_lets_in_whom_it_says() {
    walk(true).await;
}

#[actix_web::test]
async fn without_docs_the_document_needs_a_credential() {
    walk(false).await;
}

#[actix_web::test]
async fn health_details_are_for_an_admin_s_token_alone() {
    let app = TestServerBuilder::new().start().await;
    let held = Held::by(&app).await;
    for (credential, wanted) in [
        (Credential::None, 401),
        (Credential::Cookie, 401),
        (Credential::Unknown, 401),
        (Credential::Jwt, 403),
        (Credential::Key, 403),
        (Credential::AdminKey, 403),
        (Credential::AdminJwt, 200),
    ] {
        let reply = held.on(app.get("/health?check=all"), credential).send().await;

        assert_eq!(reply.status.as_u16(), wanted, "{credential:?}");
    }
}

#[actix_web::test]
async fn another_spelling_of_a_route_gives_no_other_authority() {
    let app = TestServerBuilder::new().start().await;
    for path in [
        "/api/usage/records/",
        "//api/usage/records",
        "/API/usage/records",
        "/api/usage/./records",
        "/api/x/../usage/records",
        "/api%2Fusage%2Frecords",
        "/api/usage%2frecords",
        "/%61pi/usage/records",
        "/health/../api/usage/records",
        "/bedrock/../api/usage/records",
        "/bedrock//model/x/invoke",
    ] {
        let reply = app.get(path).send().await;

        assert!(matches!(reply.status.as_u16(), 400 | 401 | 404), "{path}: {reply:?}");
    }
}
