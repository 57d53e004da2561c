//! Every route with every kind of credential (SEC-75), generated from the route table.

use bedrock_sso_proxy::routes::{Access, ROUTES};
use serde_json::json;

use crate::helpers::{
    ADMIN, Browser, MODEL, PERSON, Reply, Request, TestServer, TestServerBuilder, form, message,
    messages,
};

/// What the caller brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credential {
    None,
    Cookie,
    Jwt,
    Key,
    AdminCookie,
    AdminJwt,
    AdminKey,
    Unknown,
    /// A cookie that is no session, though it has the form.
    UnknownCookie,
}

use Credential as C;

const ALL: [Credential; 9] = [
    C::None,
    C::Cookie,
    C::Jwt,
    C::Key,
    C::AdminCookie,
    C::AdminJwt,
    C::AdminKey,
    C::Unknown,
    C::UnknownCookie,
];

/// The provider's test people with the addresses of [`ADMIN`] and of somebody else.
const ADMIN_SUBJECT: &str = "1001";
const OTHER_SUBJECT: &str = "1002";

struct Held {
    jwt: String,
    key: String,
    browser: Browser,
    admin_jwt: String,
    admin_key: String,
    admin_browser: Browser,
}

impl Held {
    async fn by(app: &TestServer) -> Self {
        Self {
            jwt: app.create_token(PERSON).await,
            key: app.create_key(PERSON).await,
            browser: app.signed_in(OTHER_SUBJECT).await,
            admin_jwt: app.create_token(ADMIN).await,
            admin_key: app.create_key(ADMIN).await,
            admin_browser: app.signed_in(ADMIN_SUBJECT).await,
        }
    }

    /// Sends the request of a cell.
    async fn send(&self, app: &TestServer, cell: &Cell, credential: Credential) -> Reply {
        let browser = match credential {
            C::Cookie => &self.browser,
            C::AdminCookie => &self.admin_browser,
            _ => return self.on(cell.request(app, None), credential).send().await,
        };
        let csrf = browser.csrf().await;
        let request = cell.request(app, Some(&csrf)).header("cookie", browser.cookies());
        request.header("sec-fetch-site", "same-origin").header("x-csrf-token", csrf).send().await
    }

    fn on(&self, request: Request, credential: Credential) -> Request {
        match credential {
            C::None | C::Cookie | C::AdminCookie => request,
            C::Jwt => request.bearer(&self.jwt),
            C::Key => request.bearer(&self.key),
            C::AdminJwt => request.bearer(&self.admin_jwt),
            C::AdminKey => request.bearer(&self.admin_key),
            C::Unknown => request.bearer(&format!("SSOK_{}", "a".repeat(32))),
            C::UnknownCookie => {
                request.header("cookie", format!("bedrock_session={}", "A".repeat(43)))
            }
        }
    }
}

/// A route, with something in the place of its parameters.
struct Cell {
    method: &'static str,
    path: String,
    access: Access,
    /// What whoever is let in is answered.
    let_in: u16,
}

impl Cell {
    fn new((method, path, access): &(&'static str, &'static str, Access)) -> Self {
        // Bedrock counts for foundation models only.
        let model = if path.ends_with("count-tokens") {
            "anthropic.claude-sonnet-4-20250514-v1:0"
        } else {
            MODEL
        };
        let id = match *path {
            "/anthropic/v1/models/{id}" => "claude-sonnet-4-5",
            "/usage/calls/{id}" | "/admin/usage/calls/{id}" => "999999",
            "/auth/sessions/{id}" | "/sessions/{id}/end" => "00000000-0000-4000-8000-000000000000",
            _ => "1",
        };
        let let_in = match (*method, *path) {
            ("POST", "/api/keys" | "/keys") => 201,
            // Nobody has such a session or key: somebody else's are not to be told from those.
            ("DELETE", "/auth/sessions/{id}") | ("POST", "/sessions/{id}/end") => 404,
            (_, path) if path.contains("{key_id}") || path.contains("/usage/calls/") => 404,
            ("DELETE" | "POST", "/api/admin/users/{id}/sessions" | "/auth/logout") => 204,
            // Nothing streams.
            ("DELETE", "/api/admin/streams/{id}") => 404,
            ("POST", "/admin/streams/{id}/cut") => 409,
            (
                "POST",
                "/admin/users/{id}/state"
                | "/admin/users/{id}/sessions/end"
                | "/admin/jobs/{name}/run",
            ) => 303,
            ("GET", "/auth/authorize/{provider}") => 302,
            ("DELETE", "/api/admin/costs/{region}/{model_id}") => 204,
            ("POST", "/api/admin/jobs/{name}/run") => 202,
            ("POST", "/admin/costs/new" | "/admin/costs/{region}/{model_id}") => 303,
            // It takes a file.
            ("POST", "/admin/costs/import") => 415,
            // No sign-in is under way, no device waits.
            ("GET", "/auth/callback/{provider}") | ("POST", "/device") => 400,
            _ => 200,
        };
        let mut path = path
            .replace("{region}", "*")
            .replace("{name}", "price_check")
            .replace("{model_id}", model)
            .replace("{id}", id)
            .replace("{key_id}", "999")
            .replace("{provider}", "sso")
            .replace("{file}", "app.css");
        if path.ends_with("/search") {
            path.push_str("?q=example");
        }
        if path == "/login/cli" && *method == "GET" {
            path = format!("{path}?code_challenge_method=S256&{}", form(&cli()));
        }
        Self { method, path, access: *access, let_in }
    }

    fn request(&self, app: &TestServer, csrf: Option<&str>) -> Request {
        let request = app.get(&self.path).method(self.method);
        let path = self.path.as_str();
        if matches!(self.access, Access::PageForm | Access::AdminForm) {
            let mut fields = fields(path);
            fields.extend(csrf.map(|token| ("csrf_token", token)));
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            return request.body(form(&fields));
        }
        let body = match (self.method, path) {
            ("POST", path) if path.ends_with("/count-tokens") => json!({
                "input": {"converse": crate::helpers::conversation("hi")}}),
            ("POST", path) if path.starts_with("/anthropic") => messages("hi"),
            ("POST", path) if path.contains("/converse") => crate::helpers::conversation("hi"),
            ("POST", path) if path.starts_with("/bedrock") => message("hi"),
            ("POST", "/auth/token") => json!({"grant_type": "session"}),
            ("POST", "/auth/refresh") => {
                json!({"refresh_token": format!("SSOR_{}", "A".repeat(43))})
            }
            ("POST", "/auth/device") => json!({}),
            ("POST", "/auth/logout") => return request,
            ("POST", path) if path.ends_with("/run") => return request,
            ("POST", "/api/admin/costs") => {
                let file = "region,model_id,input_per_1k,output_per_1k\n*,x.y,1,2\n";
                return request.header("content-type", "text/csv").body(file);
            }
            ("PUT", path) if path.starts_with("/api/admin/costs") => {
                json!({"input_cost_per_1k_tokens": "0.001"})
            }
            ("POST", path) if path.ends_with("/rotate") => json!({}),
            ("POST" | "PATCH", _) => json!({"name": "x"}),
            ("PUT", _) => json!({"state": "active"}),
            _ => return request,
        };
        request.header("content-type", "application/json").json(&body)
    }

    /// The status that SEC-75 asks for.
    fn wanted(&self, credential: Credential, docs: bool) -> u16 {
        let cookie = matches!(credential, C::Cookie | C::AdminCookie);
        let token = matches!(credential, C::Jwt | C::AdminJwt);
        let key = matches!(credential, C::Key | C::AdminKey);
        let admin = matches!(credential, C::AdminCookie | C::AdminJwt);
        match self.access {
            Access::Public | Access::PublicPage => self.let_in,
            Access::Docs if docs || cookie || token || key => 200,
            Access::Caller if token || key => 200,
            Access::Reader if cookie || token || key => 200,
            Access::Person if cookie || token => self.let_in,
            Access::Person if key => 403,
            Access::Admin if admin => self.let_in,
            Access::Admin if cookie || token || key => 403,
            Access::Page if cookie => self.let_in,
            Access::AdminPage if admin && cookie => self.let_in,
            Access::AdminPage if cookie => 403,
            Access::Page | Access::AdminPage => 303,
            Access::PageForm if cookie => self.let_in,
            Access::AdminForm if admin && cookie => self.let_in,
            Access::AdminForm if cookie => 403,
            // The token of the body counts alone, and this one is none.
            Access::Code if self.path == "/auth/refresh" => 400,
            Access::Code if cookie => 200,
            // An access token cannot make others.
            Access::Code if token => 400,
            Access::Code if key => 403,
            _ => 401,
        }
    }

    /// Whether the credential is good for no other cell afterwards.
    fn spends(&self) -> bool {
        self.path == "/auth/logout" || self.path.ends_with("/sessions") && self.method == "DELETE"
    }
}

/// What the form of a page sends.
fn fields(path: &str) -> Vec<(&'static str, &'static str)> {
    match path {
        "/login/cli" => cli().into_iter().chain([("action", "allow")]).collect(),
        "/device" => vec![("user_code", "BCDF-GHJK"), ("action", "allow")],
        "/admin/costs/new" => {
            vec![("region", "*"), ("model_id", "acme.x"), ("input", "1"), ("action", "set")]
        }
        path if path.starts_with("/admin/costs/") => vec![("input", "2"), ("action", "set")],
        path if path.starts_with("/admin/users/") && path.ends_with("/state") => {
            vec![("state", "active")]
        }
        "/connect/test" => vec![("model", "claude-opus-4-8"), ("way", "anthropic")],
        "/keys" => vec![("form", FORM), ("name", "x"), ("expires_in_days", "7")],
        path if path.ends_with("/rename") => vec![("name", "x")],
        path if path.ends_with("/rotate") => vec![("form", OTHER_FORM), ("overlap_seconds", "0")],
        _ => Vec::new(),
    }
}

/// The ids of forms that are used once.
const FORM: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const OTHER_FORM: &str = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA";

/// What the command line's page is told.
fn cli() -> [(&'static str, &'static str); 3] {
    [
        ("redirect_uri", "http://127.0.0.1:8123/callback"),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("state", "a-state-of-16-or-more"),
    ]
}

async fn walk(docs: bool) {
    let app = unlimited().set("SERVER__DOCS", docs).start().await;
    // The person with the id 1, whom admins act on.
    app.create_key("first@example.com").await;
    let mut held = Held::by(&app).await;
    let mut wrong = Vec::new();
    for cell in ROUTES.iter().map(Cell::new) {
        for credential in ALL {
            if cell.spends() {
                held = Held::by(&app).await;
            }
            let wanted = cell.wanted(credential, docs);

            let reply = held.send(&app, &cell, credential).await;

            let status = reply.status.as_u16();
            // The job may still be running for the cell before.
            let runs = cell.path.ends_with("/run") && matches!(wanted, 202 | 303) && status == 409;
            if status != wanted && !runs {
                wrong.push(format!(
                    "{} {} {credential:?}: {status}, not {wanted}: {reply:?}",
                    cell.method, cell.path
                ));
            }
            if status == 401 && reply.header("www-authenticate").is_none() {
                wrong.push(format!(
                    "{} {} {credential:?}: no WWW-Authenticate",
                    cell.method, cell.path
                ));
            }
            if status == 303
                && cell.let_in != 303
                && !reply.header("location").is_some_and(|to| to.starts_with("/login"))
            {
                wrong.push(format!(
                    "{} {} {credential:?}: to {:?}",
                    cell.method,
                    cell.path,
                    reply.header("location")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Each cell of the matrix is a request; none is to be refused for their number.
fn unlimited() -> TestServerBuilder {
    TestServerBuilder::new().sign_in().unlimited()
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
async fn health_details_are_for_an_admin_in_person_alone() {
    let app = unlimited().start().await;
    let held = Held::by(&app).await;
    let cell = Cell {
        method: "GET",
        path: "/health?check=all".to_owned(),
        access: Access::Admin,
        let_in: 200,
    };
    for credential in ALL {
        let reply = held.send(&app, &cell, credential).await;

        assert_eq!(reply.status.as_u16(), cell.wanted(credential, true), "{credential:?}");
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
        "/api/admin/users/",
        "/API/admin/users",
        "/api/admin//users",
        "/api/admin%2Fusers",
        "/api/keys/../admin/users",
        "/static/../api/admin/users",
        "/login/../api/admin/users",
    ] {
        let reply = app.get(path).send().await;

        assert!(matches!(reply.status.as_u16(), 400 | 401 | 404), "{path}: {reply:?}");
    }
}
