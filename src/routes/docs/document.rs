//! Makes the OpenAPI document: what paperclip reads off the handlers, what the route table and the closed list of errors
//! say of each operation, and over that what only people know (`openapi.yaml`, `docs/*.yaml`).

use std::collections::BTreeSet;

use actix_web::App;
use paperclip::{
    actix::OpenApiExt,
    v2::models::{DefaultApiRaw, Info},
};
use serde_json::{Map, Value, json};

use super::errors;
use crate::routes::{Access, ROUTES, configure};

/// Operations, schemas and parameters in words, merged in this order.
const OVERLAYS: [&str; 2] = [include_str!("schemas.yaml"), include_str!("../openapi.yaml")];
/// Each parameter once, by where it stands and its name, for whatever operations have it.
const PARAMETERS: &str = include_str!("parameters.yaml");

/// What paperclip is told before it looks at the routes.
pub fn defaults() -> DefaultApiRaw {
    DefaultApiRaw {
        info: Info {
            title: "Bedrock SSO Proxy".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Info::default()
        },
        ..DefaultApiRaw::default()
    }
}

/// The whole document.
pub fn document() -> Value {
    let mut document = Value::Null;
    let _app = App::new()
        .wrap_api_with_spec(defaults())
        .configure(configure)
        .with_raw_json_spec_v3(|app, derived| {
            document = derived;
            app
        })
        .build();
    strip_patterns(&mut document);
    say_null(&mut document);
    let parameters: Value = serde_yaml::from_str(PARAMETERS).unwrap_or_default();
    for (method, path, access) in ROUTES {
        let method = method.to_ascii_lowercase();
        let operation = document.pointer_mut(&format!("/paths/{}/{method}", pointer(path)));
        if let Some(Value::Object(operation)) = operation {
            name_parameters(operation, path, &parameters);
            describe_callers(operation, *access);
            operation.insert("security".to_owned(), security(*access, &method));
            errors::declare(operation, *access, &method, path);
        }
    }
    merge(&mut document, json!({ "components": { "responses": errors::responses() } }));
    for overlay in OVERLAYS {
        merge(&mut document, serde_yaml::from_str(overlay).unwrap_or_default());
    }
    finish(&mut document);
    document
}

/// A path as one step of a JSON pointer (RFC 6901).
fn pointer(path: &str) -> String {
    path.replace('~', "~0").replace('/', "~1")
}

/// `{model_id:.*}` is `{model_id}` to readers.
fn strip_patterns(document: &mut Value) {
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    let plain = |path: &str| path.replace(":.*}", "}");
    *paths = std::mem::take(paths).into_iter().map(|(path, item)| (plain(&path), item)).collect();
}

/// What a derived schema does not require is an `Option`: it may be null, and in an answer it is there all the same.
/// Bodies that are sent take no member that they do not name.
fn say_null(document: &mut Value) {
    let mut sent = BTreeSet::new();
    let items = document["paths"].as_object().into_iter().flat_map(Map::values);
    for operation in items.filter_map(Value::as_object).flat_map(Map::values) {
        let schema = operation.pointer("/requestBody/content/application~1json/schema/$ref");
        let name = schema.and_then(Value::as_str).and_then(|schema| schema.rsplit('/').next());
        sent.extend(name.map(str::to_owned));
    }
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    for (name, schema) in schemas.into_iter().flatten() {
        let is_sent = sent.contains(name);
        say_null_in(schema, !is_sent);
        if let (true, Some(schema)) = (is_sent, schema.as_object_mut()) {
            schema.insert("additionalProperties".to_owned(), false.into());
        }
    }
}

fn say_null_in(schema: &mut Value, is_answer: bool) {
    if let Some(items) = schema.get_mut("items") {
        say_null_in(items, is_answer);
    }
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let Some(members) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, member) in &mut *members {
        say_null_in(member, is_answer);
        if let (false, Some(member)) = (required.contains(&json!(name)), member.as_object_mut()) {
            member.insert("nullable".to_owned(), true.into());
        }
    }
    if is_answer {
        schema["required"] = members.keys().map(String::as_str).collect();
    }
}

/// Sees to it that each parameter of the path is there, and says of each parameter what is known of its name.
fn name_parameters(operation: &mut Map<String, Value>, path: &str, known: &Value) {
    let list = operation.entry("parameters").or_insert_with(|| json!([]));
    let in_path = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    for name in in_path {
        let is_path = json!([{ "name": name, "in": "path", "required": true }]);
        merge(list, is_path);
    }
    for parameter in list.as_array_mut().into_iter().flatten() {
        let [place, name] = ["in", "name"].map(|key| parameter[key].as_str().unwrap_or_default());
        let said = known[place][name].clone();
        if parameter["schema"].is_null() {
            parameter["schema"] = json!({ "type": "string" });
        }
        if said.is_object() {
            merge(parameter, said);
        }
    }
    if list.as_array().is_some_and(Vec::is_empty) {
        operation.remove("parameters");
    }
}

/// What a caller brings: one of these.
fn security(access: Access, method: &str) -> Value {
    // What a browser's session changes, it says with the session's CSRF token.
    let session = match method {
        "get" | "head" => json!({ "session": [] }),
        _ => json!({ "session": [], "csrf": [] }),
    };
    let (bearer, header) = (json!({ "bearer": [] }), json!({ "apiKeyHeader": [] }));
    match access {
        Access::Docs => json!([{}, bearer, header, session]),
        Access::Caller => json!([bearer, header]),
        Access::Reader | Access::Person | Access::Admin => json!([bearer, header, session]),
        _ => json!([]),
    }
}

/// Who is meant, where not every credential is enough: OpenAPI 3.0 has no word for it.
fn describe_callers(operation: &mut Map<String, Value>, access: Access) {
    let callers = match access {
        Access::Person => "Takes an access token or a session; an API key is not enough.",
        Access::Admin => "For admins, with an access token or a session; an API key is not enough.",
        _ => return,
    };
    let said = operation.get("description").and_then(Value::as_str).unwrap_or_default();
    operation.insert("description".to_owned(), format!("{said}\n\n{callers}").into());
}

/// Gives every operation an answer that succeeds, which a handler's own response leaves out, and an id of its own,
/// which `HEAD` else shares with `GET`, and a path with the same one and a slash at its end; and every answer its header.
fn finish(document: &mut Value) {
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    for (path, item) in paths {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            let Some(responses) = operation["responses"].as_object_mut() else { continue };
            if !responses.keys().any(|status| status.starts_with(['2', '3'])) {
                let described = json!({ "description": "As described above" });
                responses.insert("200".to_owned(), described);
            }
            for response in responses.values_mut().filter(|response| response["$ref"].is_null()) {
                let id = json!({ "$ref": "#/components/headers/RequestId" });
                merge(response, json!({ "headers": { "x-request-id": id } }));
            }
            if let Some(Value::String(id)) = operation.get_mut("operationId") {
                let slash = path.len() > 1 && path.ends_with('/');
                id.push_str(if slash { "Slash" } else { "" });
                id.push_str(if method == "head" { "Head" } else { "" });
            }
        }
    }
}

/// JSON Merge Patch (RFC 7396); but lists of things that have names, as parameters do, are merged by name.
fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(members), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    members.remove(&key);
                } else {
                    merge(members.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(list), Value::Array(patch))
            if patch.iter().all(|one| one["name"].is_string()) =>
        {
            for one in patch {
                let same =
                    |known: &&mut Value| known["name"] == one["name"] && known["in"] == one["in"];
                match list.iter_mut().find(same) {
                    Some(known) => merge(known, one),
                    None => list.push(one),
                }
            }
        }
        // A null inside an object that is new is to be dropped, too.
        (target, patch @ Value::Object(_)) => {
            *target = Value::Object(Map::new());
            merge(target, patch);
        }
        (target, patch) => *target = patch,
    }
}
