//! The pages of prices: looked at, set and ended by hand, imported from a file that is shown first.

use super::*;
use crate::helpers::{Browser, field, form};

const MODEL: &str = "acme.large-v1:0";

/// An admin's browser.
async fn admin(app: &TestServer) -> Browser {
    app.signed_in("1001").await
}

async fn app(backend: Backend) -> TestServer {
    TestServerBuilder::new().backend(backend).sign_in().unlimited().start().await
}

/// Sends the form of a page with a token of it.
async fn send(browser: &Browser, path: &str, fields: &[(&str, &str)]) -> Reply {
    let token = browser.csrf().await;
    let fields: Vec<_> = fields.iter().copied().chain([("csrf_token", token.as_str())]).collect();
    browser.form(path, &fields).await
}

/// Sends a form with a file in it.
async fn upload(browser: &Browser, fields: &[(&str, &str)]) -> Reply {
    let token = browser.csrf().await;
    upload_with(browser, fields, &token).await
}

async fn upload_with(browser: &Browser, fields: &[(&str, &str)], token: &str) -> Reply {
    let mut body = String::new();
    for (name, value) in fields.iter().chain([&("csrf_token", token)]) {
        let file = if *name == "file" {
            "; filename=\"prices.csv\"\r\nContent-Type: text/csv"
        } else {
            ""
        };
        body.push_str(&format!(
            "--limit-7f3\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{value}\r\n"
        ));
    }
    body.push_str("--limit-7f3--\r\n");
    let request = browser.request("POST", "/admin/costs/import");
    let kind = "multipart/form-data; boundary=limit-7f3";
    browser.send(request.header("content-type", kind).body(body)).await
}

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.body.to_vec()).unwrap()
}

/// The price that counts, by the API.
async fn price(browser: &Browser, model: &str) -> Value {
    browser.api("GET", &format!("/api/admin/costs/*/{model}"), None).await.json()
}

on_both_databases!(a_price_is_set_changed_and_ended_on_its_page, backend => {
    let app = app(backend).await;
    let browser = admin(&app).await;

    let set = send(&browser, "/admin/costs/new", &[
        ("region", "*"), ("model_id", MODEL), ("input", "3"), ("output", "15"), ("cache_write", "3.75"),
        ("cache_write_1h", "6"), ("cache_read", "0.3"), ("input_long", "6"), ("output_long", "22.5"),
        ("valid_from", ""), ("action", "set"),
    ]).await;

    assert_eq!(set.status, 303, "{}", text(&set));
    let place = set.header("location").unwrap().to_owned();
    assert_eq!(place, format!("/admin/costs/*/{MODEL}?done=set"));
    let page = text(&browser.get(&place).await);
    assert!(page.contains("The price is set.") && page.contains("$0.30") && page.contains("$0.0003 per 1,000 tokens"), "{page}");
    let known = price(&browser, MODEL).await;
    assert_eq!((&known["input_cost_per_1k_tokens"], &known["output_long_cost_per_1k_tokens"]), (&json!("0.003"), &json!("0.0225")));
    assert_eq!(known["source"], "manual");

    let path = format!("/admin/costs/*/{MODEL}");
    let changed = send(&browser, &path, &[("input", "4"), ("output", "15"), ("action", "set")]).await;
    let place = format!("{path}?done=set_without_cache");
    assert_eq!((changed.status.as_u16(), changed.header("location")), (303, Some(place.as_str())));
    assert!(text(&browser.get(&place).await).contains("have no cost, as a price for that is missing"));
    let same = send(&browser, &path, &[("input", "4.0"), ("output", "15"), ("action", "set")]).await;
    assert_eq!(same.header("location"), Some(format!("{path}?done=same").as_str()), "sent twice, set once");
    assert_eq!(price(&browser, MODEL).await["history"].as_array().unwrap().len(), 2);

    assert_eq!(send(&browser, &path, &[("action", "end")]).await.status, 303);
    assert_eq!(send(&browser, &path, &[("action", "end")]).await.status, 303, "ended twice");
    let page = text(&browser.get(&path).await);
    assert!(page.contains("no price now") && page.contains("ended"), "{page}");
    assert_eq!(browser.api("GET", &format!("/api/admin/costs/*/{MODEL}"), None).await.status, 404);
    assert_eq!(app.audited("price_set").await, 2);
    assert_eq!(app.audited("price_ended").await, 1);
});

#[actix_web::test]
async fn what_was_typed_stays_when_a_price_is_not_taken() {
    let app = app(Backend::Sqlite).await;
    let browser = admin(&app).await;
    let long = "9".repeat(40);
    for (field, value) in [
        ("input", "a lot"),
        ("input", "NaN"),
        ("output", "-1"),
        ("cache_read", "0.0000001"),
        ("cache_write", long.as_str()),
        ("input_long", "5"),
        ("valid_from", "300000-01-01"),
        ("region", "the moon"),
        ("model_id", "<script>alert(1)</script>"),
        ("model_id", ""),
    ] {
        let mut fields =
            vec![("region", "*"), ("model_id", MODEL), ("input", "1"), ("output", "17.25")];
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value));
        let reply = send(&browser, "/admin/costs/new", &fields).await;

        let page = text(&reply);
        assert_eq!(reply.status, 400, "{field} {value}: {page}");
        assert!(page.contains(&format!("id=\"{field}-problem\"")), "{field} {value}: {page}");
        assert!(field == "output" || page.contains("value=\"17.25\""), "{field}");
        assert!(!page.contains("<script>alert"), "{page}");
    }
    let nothing = send(&browser, "/admin/costs/new", &[("region", "*"), ("model_id", MODEL)]).await;
    assert_eq!(nothing.status, 400);
    let taken = "us.anthropic.claude-sonnet-4-5-20250929-v1:0";
    let fields = [("region", "us-east-1"), ("model_id", taken), ("input", "3"), ("output", "15")];
    assert_eq!(send(&browser, "/admin/costs/new", &fields).await.status, 303);
    let again = send(&browser, "/admin/costs/new", &fields).await;
    assert!(again.status == 400 && text(&again).contains("There is a price of exactly this"));
    assert_eq!(app.audited("price_set").await, 1);
    for path in ["/admin/costs/*/acme.unknown", "/admin/costs/Nowhere/x.y"] {
        let status = browser.get(path).await.status.as_u16();
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
}

on_both_databases!(the_list_narrows_and_its_pages_hold_each_price_once, backend => {
    let app = app(backend).await;
    let browser = admin(&app).await;
    let all = browser.api("GET", "/api/admin/costs?limit=1", None).await.json()["total"].as_i64().unwrap();

    let mut seen = std::collections::BTreeSet::new();
    let mut next = Some("/admin/costs".to_owned());
    while let Some(path) = next {
        let page = text(&browser.get(&path).await);
        for link in page.split("<th scope=\"row\"><a href=\"/admin/costs/").skip(1) {
            assert!(seen.insert(link.split('"').next().unwrap().to_owned()), "twice");
        }
        let links = page.split("href=\"").filter(|rest| rest.contains("rel=\"next\">"));
        let next_link = links.last().and_then(|rest| rest.split_once("\" rel=\"next\""));
        next = next_link.map(|(link, _)| link.replace("&#38;", "&"));
        assert!(seen.len() <= 1000);
    }

    assert_eq!(i64::try_from(seen.len()).unwrap(), all);
    let narrow = text(&browser.get("/admin/costs?q=OPUS-4-8&region=*").await);
    assert!(narrow.contains("us.anthropic.claude-opus-4-8") && !narrow.contains("amazon.nova"));
    let wild = text(&browser.get("/admin/costs?q=%25").await);
    assert!(wild.contains("No price fits."), "a wildcard is a letter like others");
    let broken = browser.get("/admin/costs?cursor=nonsense").await;
    assert_eq!(broken.status, 400);
    assert!(text(&broken).contains("begin with the first"));
});

const FILE: &str = "region,model_id,input_per_1k,output_per_1k\n\
    *,acme.one,0.001,0.002\n\
    *,amazon.nova-lite-v1:0,0.001,0.00024\n";

on_both_databases!(an_import_is_shown_before_it_is_made_and_made_once, backend => {
    let app = app(backend).await;
    let browser = admin(&app).await;

    let preview = upload(&browser, &[("file", FILE), ("text", ""), ("action", "preview")]).await;

    let page = text(&preview);
    assert_eq!(preview.status, 200, "{page}");
    assert!(page.contains("1 to add, 1 to change, 0 as they are"), "{page}");
    assert!(page.contains("<s>0.06</s> → 1"), "{page}");
    assert_eq!(app.audited("prices_imported").await, 0);
    let version = field(&preview, "version");
    let agreed = [("text", FILE), ("version", version.as_str()), ("action", "apply")];
    let applied = upload(&browser, &agreed).await;
    assert_eq!((applied.status.as_u16(), applied.header("location")), (303, Some("/admin/costs?done=imported")));
    assert_eq!(price(&browser, "acme.one").await["input_cost_per_1k_tokens"], "0.001");
    let again = upload(&browser, &agreed).await;
    assert!(text(&again).contains("Prices were changed while you looked"), "sent twice, imported once");
    assert_eq!(app.audited("prices_imported").await, 1);
    let nothing = text(&upload(&browser, &[("file", ""), ("text", FILE), ("action", "preview")]).await);
    assert!(nothing.contains("The file changes nothing"), "{nothing}");
});

on_both_databases!(a_narrower_price_is_shown_beside_the_one_that_counts_so_far_and_the_history_says_who, backend => {
    let app = app(backend).await;
    let browser = admin(&app).await;
    let file = "region,model_id,input_per_1k,output_per_1k,input_long_per_1k,output_long_per_1k\n\
        mx-central-1,amazon.nova-lite-v1:0,0.001,0.00024,0.002,0.00048\n*,acme.one,0.001,0.002,,\n";

    let preview = upload(&browser, &[("file", file), ("text", ""), ("action", "preview")]).await;

    let page = text(&preview);
    assert!(page.contains("2 to add, 0 to change"), "{page}");
    let row = |id: &str| {
        let row = page.split("<tr>").find(|row| row.contains(id)).expect("a row");
        row.split("</tr>").next().unwrap_or_default().to_owned()
    };
    let narrower = row("amazon.nova-lite");
    assert!(narrower.contains("in place of a broader price"), "{narrower}");
    assert!(narrower.contains("<s>0.06</s> → 1"), "{narrower}");
    assert!(narrower.contains("<s>–</s> → 2") && narrower.contains("<s>–</s> → 0.48"), "{narrower}");
    let new = row("acme.one");
    assert!(new.contains("new</span>") && new.contains("all along") && !new.contains("<s>"), "{new}");
    let version = field(&preview, "version");
    let applied = [("text", file), ("version", version.as_str()), ("action", "apply")];
    assert_eq!(upload(&browser, &applied).await.status, 303);
    let history = text(&browser.get("/admin/costs/mx-central-1/amazon.nova-lite-v1:0").await);
    assert!(history.contains("<td dir=\"auto\">admin@example.com</td>"), "{history}");
    let log = text(&browser.get("/admin/audit?event_type=prices_imported").await);
    assert!(log.contains("<span class=\"brief\" dir=\"auto\">prices</span>"), "what was changed: {log}");
});

#[actix_web::test]
async fn a_price_ten_times_what_it_was_is_asked_about_and_one_in_part_says_so() {
    let app = app(Backend::Sqlite).await;
    let browser = admin(&app).await;
    let path = "/admin/costs/*/amazon.nova-lite-v1:0"; // 0.06 and 0.24
    let fields = [("input", "60"), ("output", "0.24"), ("cache_write", "0"), ("cache_read", "0")];

    let asked = send(&browser, path, &fields).await;

    let page = text(&asked);
    assert_eq!(asked.status, 400, "{page}");
    assert!(
        page.contains("It is $0.06 so far, and would be $60") && page.contains("value=\"60\""),
        "{page}"
    );
    assert_eq!(app.audited("price_set").await, 0);
    let meant: Vec<_> = fields.into_iter().chain([("confirmed", "yes")]).collect();
    assert_eq!(send(&browser, path, &meant).await.status, 303);
    let part = send(&browser, path, &[("output", "0.24")]).await;
    let place = part.header("location").unwrap().to_owned();
    assert!(
        text(&browser.get(&place).await).contains("It has none for input or output"),
        "{place}"
    );

    let file = "region,model_id,input_per_1k,output_per_1k,valid_from\n\
        *,amazon.nova-pro-v1:0,0.8,3.2,\n*,acme.one,,0.002,\n*,amazon.nova-lite-v1:0,0.00006,0.00024,2026-10-01\n";
    let preview =
        text(&upload(&browser, &[("file", file), ("text", ""), ("action", "preview")]).await);
    assert!(preview.contains("1 of these prices become ten times"), "{preview}");
    assert!(preview.contains("<td class=\"n jump\"><s>0.8</s> → 800</td>"), "{preview}");
    assert!(preview.contains("1 of these prices lack one for input or output"), "{preview}");
    assert!(preview.contains("when the price that is there follows"), "{preview}");
    let european = "region;model_id;input_per_1k;output_per_1k\n*;acme.one;0,001;0,002\n";
    let reply = upload(&browser, &[("file", european), ("text", ""), ("action", "preview")]).await;
    assert!(reply.status == 400 && text(&reply).contains("separated by commas, not by semicolons"));
}

#[actix_web::test]
async fn every_bad_line_of_a_file_is_named_and_the_lines_stay() {
    let app = app(Backend::Sqlite).await;
    let browser = admin(&app).await;
    let bad = "region,model_id,input_per_1k,output_per_1k\n*,acme.one,-1,2\n*,acme.two,NaN,\"</textarea><script>alert(1)</script>\"\n";

    let reply = upload(&browser, &[("file", ""), ("text", bad), ("action", "apply")]).await;

    let page = text(&reply);
    assert_eq!(reply.status, 400);
    for part in ["Line 2", "Line 3", "input_per_1k", "Nothing was changed", "acme.two,NaN"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("<script>alert"), "{page}");
    let empty = upload(&browser, &[("file", ""), ("text", " "), ("action", "preview")]).await;
    assert!(empty.status == 400 && text(&empty).contains("Choose a file"));
    let large = upload(&browser, &[("text", &"x".repeat(6 << 20)), ("action", "preview")]).await;
    assert_eq!(large.status, 413);
    assert!(text(&large).contains("<h1>"), "a page");
    let forged =
        upload_with(&browser, &[("text", FILE), ("action", "apply")], &"0".repeat(64)).await;
    assert_eq!(forged.status, 403);
    assert!(text(&forged).contains("acme.one"), "what was typed is kept");
    let stranger = Browser::new(&browser.base);
    let over = upload_with(&stranger, &[("text", FILE), ("action", "preview")], "").await;
    assert_eq!(over.status, 401);
    assert!(text(&over).contains("acme.one"), "so it is when the session is over");
    let large = upload_with(&stranger, &[("text", &"x".repeat(1 << 20))], "").await;
    assert_eq!(large.status, 401);
    let kind = browser.request("POST", "/admin/costs/import");
    let other = kind
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form(&[("text", FILE)]));
    assert_eq!(browser.send(other).await.status, 415);
    let torn = browser.request("POST", "/admin/costs/import");
    let torn = torn
        .header("content-type", "multipart/form-data; boundary=x")
        .body("--x\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\nabc");
    assert_eq!(browser.send(torn).await.status, 400);
    assert_eq!(app.audited("prices_imported").await, 0);
}
