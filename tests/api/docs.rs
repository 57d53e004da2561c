//! The OpenAPI document.

use std::{collections::BTreeSet, io::Read};

use bedrock_sso_proxy::{
    routes::{Access, ROUTES, docs},
    templates::assets,
};
use flate2::read::GzDecoder;

use crate::helpers::{MODEL, spawn_app};

#[test]
fn the_document_and_the_route_table_name_the_same_routes() {
    let document = docs::document();
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods.map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    // Pages describe themselves.
    let page = |access: &Access| {
        use Access as A;
        matches!(access, A::Page | A::PublicPage | A::PageForm | A::AdminPage | A::AdminForm)
    };
    let declared: BTreeSet<(String, String)> = ROUTES
        .iter()
        .filter(|(_, _, access)| !page(access))
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();

    assert_eq!(documented, declared);
}

#[test]
fn private_operations_say_what_they_need() {
    let document = docs::document();

    let security = &document["paths"]["/bedrock/model/{model_id}/invoke"]["post"]["security"];
    let scheme = &document["components"]["securitySchemes"]["bearer"];

    assert!(security.as_array().is_some_and(|list| !list.is_empty()), "{security}");
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&"http".into(), &"bearer".into()));
}

#[test]
fn every_operation_has_an_id_of_its_own_and_an_answer_that_succeeds() {
    let document = docs::document();
    let items = document["paths"].as_object().unwrap().values();
    let operations: Vec<_> = items.flat_map(|item| item.as_object().unwrap().values()).collect();

    let ids: BTreeSet<&str> =
        operations.iter().map(|operation| operation["operationId"].as_str().unwrap()).collect();

    assert_eq!(ids.len(), operations.len());
    for operation in operations {
        let answers = operation["responses"].as_object().unwrap();
        let good = answers.keys().filter(|status| status.starts_with(['2', '3'])).count();
        assert!(good == 1 || answers.keys().any(|status| status.starts_with('3')), "{operation}");
    }
    let made = &document["paths"]["/api/keys"]["post"]["responses"];
    assert!(made["201"].is_object() && made["200"].is_null(), "{made}");
    let paths = &document["paths"];
    assert!(paths["/api/admin/costs"]["post"]["requestBody"]["content"]["text/csv"].is_object());
    let export = &paths["/api/usage/export"]["get"]["responses"]["200"]["content"];
    assert!(export["text/csv"].is_object() && export["application/jsonl"].is_object(), "{export}");
    let started = &paths["/api/admin/jobs/{name}/run"]["post"]["responses"];
    assert!(started["202"].is_object() && started["200"].is_null(), "{started}");
}

#[test]
fn bodies_answers_and_parameters_are_described() {
    let document = docs::document();
    let stream = &document["paths"]["/bedrock/model/{model_id}/converse-stream"]["post"];
    let listed = &document["paths"]["/api/usage/records"]["get"]["parameters"];

    assert!(stream["requestBody"].is_object());
    assert!(
        stream["responses"]["200"]["content"]["application/vnd.amazon.eventstream"].is_object()
    );
    assert!(stream["responses"]["default"].is_object());
    let names: BTreeSet<&str> =
        listed.as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    for name in [
        "limit",
        "offset",
        "cursor",
        "model",
        "region",
        "key_id",
        "outcome",
        "success_only",
        "start_date",
        "end_date",
    ] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
}

#[test]
fn every_operation_says_what_it_is_what_it_takes_and_what_it_refuses() {
    let document = docs::document();
    let mut wrong = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let mut lacks = |what: String| wrong.push(format!("{method} {path}: {what}"));
            for member in ["summary", "description"] {
                if operation[member].as_str().is_none_or(|text| text.trim().is_empty()) {
                    lacks(member.to_owned());
                }
            }
            let answers = operation["responses"].as_object().unwrap();
            if !answers.keys().any(|status| status.starts_with('4')) {
                lacks("what it refuses".to_owned());
            }
            for (status, answer) in answers.iter().filter(|(status, _)| status.starts_with('2')) {
                let empty = method == "head" || status == "204";
                if empty == answer["content"].is_object() {
                    lacks(format!("the body of {status}"));
                }
            }
            let given = operation["parameters"].as_array().cloned().unwrap_or_default();
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')) {
                let name = part.trim_end_matches('}');
                let is_it = |one: &serde_json::Value| {
                    one["name"] == name && one["in"] == "path" && one["required"] == true
                };
                if !given.iter().any(is_it) {
                    lacks(format!("the parameter {name}"));
                }
            }
            for one in &given {
                let (name, schema) = (&one["name"], &one["schema"]);
                if one["description"].as_str().is_none_or(str::is_empty) || schema["type"].is_null()
                {
                    lacks(format!("what {name} is"));
                }
                let bounded = |bound: &str| schema[bound].is_number();
                let is_page = name == "limit" || name == "offset";
                if is_page && !(bounded("minimum") && bounded("maximum") && bounded("default")) {
                    lacks(format!("the bounds of {name}"));
                }
            }
            let bodies = operation["requestBody"]["content"].as_object().into_iter().flatten();
            for (kind, body) in bodies.filter(|(_, body)| !body["schema"].is_object()) {
                lacks(format!("the schema of {kind}: {body}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_may_be_null_or_is_not_always_there_is_said() {
    let document = docs::document();
    let schemas = &document["components"]["schemas"];
    let key = &schemas["KeyEntry"];

    assert_eq!(key["properties"]["expires_at"]["nullable"], true, "{key}");
    assert!(key["properties"]["name"]["nullable"].is_null(), "{key}");
    assert!(key["required"].as_array().unwrap().contains(&"expires_at".into()), "{key}");
    let made = &schemas["CreatedKey"];
    assert!(!made["required"].as_array().unwrap().contains(&"replaces".into()), "{made}");
    let sent = &schemas["NewKey"];
    assert_eq!(sent["additionalProperties"], false, "{sent}");
    assert_eq!(sent["required"], serde_json::json!(["name"]), "{sent}");
}

#[test]
fn errors_are_described_as_they_are_told_in_each_dialect() {
    let document = docs::document();
    let example = |path: &str, method: &str, status: &str| {
        let name = document["paths"][path][method]["responses"][status]["$ref"].as_str();
        let name = name.unwrap_or_else(|| panic!("{method} {path} {status}"));
        let response = &document["components"]["responses"][name.rsplit('/').next().unwrap()];
        response["content"]["application/json"]["example"].clone()
    };

    assert_eq!(example("/api/keys", "post", "429")["error"]["code"], "rate_limited");
    assert_eq!(example("/auth/token", "post", "401")["error"], "invalid_grant");
    let overloaded = example("/anthropic/v1/messages", "post", "529");
    assert_eq!(overloaded["error"]["type"], "overloaded_error", "{overloaded}");
    let invoke = "/bedrock/model/{model_id}/invoke";
    assert!(example(invoke, "post", "503")["message"].is_string());
}

#[actix_web::test]
async fn the_page_has_the_policy_of_pages_and_only_files_of_its_own() {
    let app = spawn_app().await;

    let page = app.get("/docs").send().await;

    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    let quoted: Vec<&str> = text.split('"').filter(|part| part.starts_with("/static/")).collect();
    assert!(quoted.len() >= 6, "{text}");
    for file in quoted {
        let reply = app.get(file).send().await;
        assert_eq!(reply.status, 200, "{file}");
        let caching = reply.header("cache-control").unwrap();
        assert!(caching.contains("immutable"), "{file}: {caching}");
    }
    assert!(!text.contains("<style") && !text.contains("http"), "{text}");
}

/// A header that tells of the file, and not of the request.
const NOT_OF_THE_FILE: [&str; 2] = ["date", "x-request-id"];

#[actix_web::test]
async fn files_are_compressed_for_clients_that_take_it_and_stay_the_same() {
    let app = spawn_app().await;
    for (name, at_most) in [("swagger-ui-bundle.js", 600_000), ("app.css", 6_000)] {
        let path = assets::url(name);
        let whole = app.get(path).send().await;

        let shorter = app.get(path).header("accept-encoding", "br, gzip;q=0.8").send().await;
        let head = app.get(path).method("HEAD").header("accept-encoding", "gzip").send().await;

        assert_eq!(shorter.header("content-encoding"), Some("gzip"), "{name}");
        assert!(shorter.body.len() < at_most, "{name}: {}", shorter.body.len());
        let mut text = Vec::new();
        GzDecoder::new(&shorter.body[..]).read_to_end(&mut text).unwrap();
        assert!(text == whole.body, "{name} is not what it was");
        // Whatever else is said is said of both.
        for (header, value) in &whole.headers {
            if !["content-length", "etag"].contains(&header.as_str())
                && !NOT_OF_THE_FILE.contains(&header.as_str())
            {
                assert_eq!(shorter.headers.get(header), Some(value), "{name}: {header}");
            }
        }
        assert_eq!(whole.header("vary"), Some("accept-encoding"), "{name}");
        assert_eq!(whole.header("content-encoding"), None, "{name}");
        assert_ne!(whole.header("etag"), shorter.header("etag"), "{name}");
        assert!(head.body.is_empty(), "{name}");
        for (header, value) in &shorter.headers {
            if !NOT_OF_THE_FILE.contains(&header.as_str()) {
                assert_eq!(head.headers.get(header), Some(value), "HEAD of {name}: {header}");
            }
        }
    }
}

#[actix_web::test]
async fn a_file_that_is_kept_in_one_form_is_not_taken_for_the_other() {
    let app = spawn_app().await;
    let path = assets::url("app.css");
    let tags =
        [("identity", app.get(path)), ("gzip", app.get(path).header("accept-encoding", "gzip"))];
    let mut kept = Vec::new();
    for (form, request) in tags {
        kept.push((form, request.send().await.header("etag").unwrap().to_owned()));
    }

    for (form, tag) in &kept {
        for asked in ["identity", "gzip"] {
            let request = app.get(path).header("accept-encoding", asked);
            let reply = request.header("if-none-match", tag).send().await;

            let expected = if *form == asked { 304 } else { 200 };
            assert_eq!(reply.status, expected, "{form} is kept, {asked} is asked for");
            assert_eq!(reply.header("vary"), Some("accept-encoding"));
            assert!(reply.header("cache-control").unwrap().contains("immutable"));
            if expected == 304 {
                assert!(reply.body.is_empty());
                assert_eq!(reply.header("etag"), Some(tag.as_str()));
            }
        }
    }
}

#[actix_web::test]
async fn nothing_is_compressed_that_was_not_asked_to_be_and_nothing_but_files() {
    let app = spawn_app().await;
    let key = app.create_key("dev@example.com").await;
    let path = assets::url("app.css");
    for accepted in
        ["", "*", "identity", "gzip;q=0", "identity, gzip;q=0.5", "br", "*;q=0", "not, a;list"]
    {
        let reply = app.get(path).header("accept-encoding", accepted).send().await;

        assert_eq!(reply.status, 200, "{accepted}");
        assert_eq!(reply.header("content-encoding"), None, "{accepted}");
    }
    for path in
        ["/login", "/docs", "/openapi.json", "/health", "/auth/providers", "/static/nothing.css"]
    {
        let reply = app.get(path).header("accept-encoding", "gzip").send().await;

        assert_eq!(reply.header("content-encoding"), None, "{path}");
    }
    let call = app.post(&format!("/bedrock/model/{MODEL}/converse")).bearer(&key);
    let body = serde_json::json!({"messages": [{"role": "user", "content": [{"text": "Hello"}]}]});
    let reply = call.header("accept-encoding", "gzip").json(&body).send().await;
    assert_eq!((reply.status.as_u16(), reply.header("content-encoding")), (200, None));
}

#[actix_web::test]
async fn both_forms_are_served_and_say_the_same() {
    let app = spawn_app().await;

    let json = app.get("/openapi.json").send().await;
    let yaml = app.get("/openapi.yaml").send().await;

    let from_yaml: serde_json::Value = serde_yaml::from_slice(&yaml.body).unwrap();
    assert_eq!(json.json(), from_yaml);
    assert!(json.json()["openapi"].as_str().unwrap().starts_with("3."));
}
