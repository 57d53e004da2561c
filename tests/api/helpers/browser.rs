//! What a browser does, without the pages: it keeps cookies, says where its requests come from, and follows a sign-in.

use std::{cell::RefCell, collections::BTreeMap};

use actix_web::http::Method;
use serde_json::Value;

use super::{Reply, Request};

/// One browser at the service under test.
pub struct Browser {
    pub base: String,
    cookies: RefCell<BTreeMap<String, String>>,
}

impl Browser {
    pub fn new(base: &str) -> Self {
        // By this name, and no other, it is known to the identity provider.
        let base = base.replace("127.0.0.1", "localhost");
        Self { base, cookies: RefCell::default() }
    }

    /// The same cookies in another browser.
    pub fn copy(&self) -> Self {
        Self { base: self.base.clone(), cookies: self.cookies.clone() }
    }

    pub fn cookie(&self, name: &str) -> Option<String> {
        self.cookies.borrow().get(name).cloned()
    }

    pub fn set_cookie(&self, name: &str, value: &str) {
        self.cookies.borrow_mut().insert(name.to_owned(), value.to_owned());
    }

    pub fn forget_cookies(&self) {
        self.cookies.borrow_mut().clear();
    }

    /// All cookies, as a header has them.
    pub fn cookies(&self) -> String {
        let all = self.cookies.borrow();
        all.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    /// A request to a path of the service, with what a browser adds for its own pages.
    pub fn request(&self, method: &'static str, path: &str) -> Request {
        let request = Request::new(method, format!("{}{path}", self.base))
            .header("sec-fetch-site", "same-origin")
            .header("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        match self.cookies() {
            cookies if cookies.is_empty() => request,
            cookies => request.header("cookie", cookies),
        }
    }

    /// Sends a request, and keeps the cookies of the answer.
    pub async fn send(&self, request: Request) -> Reply {
        let reply = request.send().await;
        for line in reply.headers.get_all("set-cookie") {
            let text = line.to_str().unwrap();
            let (pair, attributes) = text.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.cookies.borrow_mut().remove(name);
            } else {
                self.set_cookie(name, value);
            }
        }
        reply
    }

    /// Looks at a page.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request("GET", path)).await
    }

    /// The CSRF token that a page holds.
    pub async fn csrf(&self) -> String {
        let page = self.get("/").await;
        field(&page, "csrf_token")
    }

    /// What a script of a page does.
    pub async fn api(&self, method: &'static str, path: &str, body: Option<&Value>) -> Reply {
        let csrf = self.csrf().await;
        let mut request = self.request(method, path).header("x-csrf-token", csrf);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").json(body);
        }
        self.send(request).await
    }

    /// Sends a form of a page.
    pub async fn form(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let body = form(fields);
        let request = self.request("POST", path);
        self.send(request.header("content-type", "application/x-www-form-urlencoded").body(body))
            .await
    }

    /// Begins a sign-in; answers where the provider is.
    pub async fn begin(&self, provider: &str, next: &str) -> String {
        let next = form(&[("next", next)]);
        let reply = self.get(&format!("/auth/authorize/{provider}?{next}")).await;
        assert_eq!(reply.status, 302, "{reply:?}");
        reply.header("location").unwrap().to_owned()
    }

    /// Signs in at the provider as somebody, with what else its form may say; answers where it sends the browser back.
    pub async fn consent(&self, at: &str, fields: &[(&str, &str)]) -> String {
        let request = Request::new(Method::POST.as_str(), at.to_owned());
        let reply = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form(fields))
            .send()
            .await;
        assert_eq!(reply.status, 302, "{reply:?}");
        let back = reply.header("location").unwrap();
        // The path and query: the browser comes back to the service that it began at.
        back.strip_prefix(&self.base).unwrap_or(back).to_owned()
    }

    /// The whole way, as one of the provider's test people; answers what the callback says.
    pub async fn sign_in(&self, subject: &str) -> Reply {
        self.sign_in_with(&[("person", subject)]).await
    }

    pub async fn sign_in_with(&self, fields: &[(&str, &str)]) -> Reply {
        let at = self.begin("sso", "/").await;
        let back = self.consent(&at, fields).await;
        self.get(&back).await
    }
}

/// The value of a hidden field.
pub fn field(page: &Reply, name: &str) -> String {
    let html = String::from_utf8_lossy(&page.body);
    let marker = format!("name=\"{name}\" value=\"");
    let at = html.find(&marker).unwrap_or_else(|| panic!("no {name} in {html}")) + marker.len();
    html[at..].split('"').next().unwrap().replace("&amp;", "&").replace("&#38;", "&")
}

/// Fields as a form has them.
pub fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}
