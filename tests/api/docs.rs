//! The OpenAPI document.

use std::collections::BTreeSet;

use bedrock_sso_proxy::routes::{Access, ROUTES, docs};

use crate::helpers::spawn_app;

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
        assert!(good == 1 || answers.contains_key("302"), "{operation}");
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

#[actix_web::test]
async fn both_forms_are_served_and_say_the_same() {
    let app = spawn_app().await;

    let json = app.get("/openapi.json").send().await;
    let yaml = app.get("/openapi.yaml").send().await;

    let from_yaml: serde_json::Value = serde_yaml::from_slice(&yaml.body).unwrap();
    assert_eq!(json.json(), from_yaml);
    assert!(json.json()["openapi"].as_str().unwrap().starts_with("3."));
}
