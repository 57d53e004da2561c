//! Pages of usage: what they show is what the API says, to the nano-dollar, whatever is asked for and whatever is there.

use std::collections::{BTreeMap, BTreeSet};

use bedrock_sso_proxy::{
    db::{
        self, Timestamp, audit::Origin, levels::Level, period::Period, summaries::build::Scope,
        usage::NewUsage,
    },
    jobs::{Work, clean_up, summarise},
    pricing::ledger::Ledger,
};
use chrono::{NaiveDate, TimeDelta};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    export::insert,
    helpers::{
        Backend, Browser, MODEL, Reply, TestServer, TestServerBuilder, form, on_both_databases,
    },
};

/// The provider's test people: an admin and a developer.
const ADMIN_SUBJECT: &str = "1001";
const SUBJECT: &str = "1002";
const HAIKU: &str = "us.anthropic.claude-haiku-4-5-20251001-v1:0";
/// It has no price.
const NEW: &str = "us.anthropic.claude-of-tomorrow-9";

/// The application with a developer who has two keys, and an admin.
struct Town {
    app: TestServer,
    own: Browser,
    admin: Browser,
    user_id: i64,
    admin_id: i64,
    keys: Vec<i64>,
    now: Timestamp,
}

impl Town {
    async fn on(backend: Backend) -> Self {
        let app = TestServerBuilder::new()
            .backend(backend)
            .sign_in()
            .unlimited()
            .set("JOBS__ENABLED", false)
            .start()
            .await;
        let (own, admin) = (app.signed_in(SUBJECT).await, app.signed_in(ADMIN_SUBJECT).await);
        let mut keys = Vec::new();
        for name in ["laptop", "night job"] {
            let made = own.api("POST", "/api/keys", Some(&json!({"name": name}))).await;
            assert_eq!(made.status, 201, "{made:?}");
            keys.push(made.json()["id"].as_i64().unwrap());
        }
        let id =
            async |browser: &Browser| browser.get("/auth/me").await.json()["id"].as_i64().unwrap();
        let (user_id, admin_id) = (id(&own).await, id(&admin).await);
        Self { app, own, admin, user_id, admin_id, keys, now: db::now() }
    }

    /// Writes calls with the cost that prices say.
    async fn write(&self, mut rows: Vec<NewUsage>) {
        let mut conn = self.app.pool().await.reader().await.unwrap();
        let ledger = Ledger::read(&mut conn).await.unwrap();
        for row in &mut rows {
            (row.cost_nano_usd, row.price_id) = ledger.price(row);
        }
        insert(&self.app, rows).await;
    }

    /// So many calls, and the summaries of days, weeks and months up to now.
    async fn grow(&self, count: i64) {
        let rows = (0..count).map(|number| self.call(number)).collect();
        self.write(rows).await;
        let pool = self.app.pool().await;
        let work =
            Work { pool: &pool, fence: None, stop: CancellationToken::new(), progress: &|_| {} };
        summarise::summarise(&work, &Period::ALL, 200, &Scope::default(), self.now).await.unwrap();
    }

    /// The numberth call, a little over eight hours before the one before it.
    fn call(&self, number: i64) -> NewUsage {
        let pick = |of: i64| (number * 7 + number / 3) % of;
        let own = pick(4) != 0;
        let failed = pick(11) == 0;
        let known = (!failed).then_some(());
        NewUsage {
            call_id: format!("call-{number}"),
            user_id: if own { self.user_id } else { self.admin_id },
            key_id: own.then(|| self.keys.get(pick(3) as usize).copied()).flatten(),
            endpoint_type: "bedrock".to_owned(),
            operation: "invoke".to_owned(),
            model_requested: MODEL.to_owned(),
            model_id: [MODEL, HAIKU, NEW][pick(3) as usize].to_owned(),
            region: ["us-east-1", "eu-west-1"][pick(2) as usize].to_owned(),
            // A few at the same time.
            request_time: self.now - TimeDelta::minutes(number / 2 * 997),
            response_time_ms: Some(1000 + number),
            time_to_first_byte_ms: known.map(|()| 300 + number),
            input_tokens: known.map(|()| 1000 + number * 13),
            output_tokens: known.map(|()| 17 + number),
            cache_write_tokens: known.map(|()| number * 5),
            cache_write_1h_tokens: known.map(|()| number * 2),
            cache_read_tokens: known.map(|()| number * 101),
            estimated: pick(13) == 0,
            outcome: if failed { "timeout" } else { "success" }.to_owned(),
            status: Some(if failed { 504 } else { 200 }),
            upstream_attempts: 1,
            request_id: format!("request-{number}"),
            ..NewUsage::default()
        }
    }

    fn day(&self, back: i64) -> NaiveDate {
        self.now.date() - TimeDelta::days(back)
    }

    /// What the API sums up of these days, each of both included.
    async fn sums(&self, everybody: bool, (from, to): (i64, i64), more: &str) -> Vec<Value> {
        let (from, to) = (self.day(from), self.day(to) + TimeDelta::days(1));
        let (browser, path) =
            self.as_seen(everybody, "/api/usage/summaries", "/api/admin/usage/summaries");
        let path =
            format!("{path}?period_type=total&limit=500&start_date={from}&end_date={to}&{more}");
        let reply = browser.get(&path).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        reply.json()["summaries"].as_array().unwrap().clone()
    }

    fn as_seen<'a>(
        &'a self,
        everybody: bool,
        own: &'a str,
        admin: &'a str,
    ) -> (&'a Browser, &'a str) {
        if everybody { (&self.admin, admin) } else { (&self.own, own) }
    }
}

async fn look(browser: &Browser, path: &str) -> String {
    let reply = browser.get(path).await;
    assert_eq!(reply.status, 200, "{path}: {}", html(&reply));
    html(&reply)
}

fn html(reply: &Reply) -> String {
    assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    String::from_utf8(reply.body.to_vec()).unwrap()
}

/// What stands between two texts, the first time.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let at = text.find(start).unwrap_or_else(|| panic!("no {start} in {text}")) + start.len();
    text[at..].split(end).next().unwrap()
}

/// The exact value of what is shown.
fn exact(shown: &str) -> String {
    if let Some((_, rest)) = shown.split_once("<data value=\"") {
        return rest.split('"').next().unwrap().to_owned();
    }
    let mut text = String::new();
    let mut inside = false;
    for letter in shown.chars() {
        match letter {
            '<' => inside = true,
            '>' => inside = false,
            ',' => {}
            letter if !inside => text.push(letter),
            _ => {}
        }
    }
    text.trim().to_owned()
}

fn number(shown: &str) -> i64 {
    let text = exact(shown);
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

/// A figure by its name.
fn figure(page: &str, name: &str) -> String {
    exact(between(page, &format!("<dt>{name}</dt><dd>"), "</dd>"))
}

/// The rows of the table in a region: the texts of their cells, exactly.
fn table(page: &str, region: &str) -> Vec<Vec<String>> {
    let body = between(page, &format!("aria-label=\"{region}\">"), "</table>");
    let body = between(body, "<tbody>", "</tbody>");
    let cells = |row: &str| {
        let cells = row.split("<t").skip(1).map(|cell| {
            let cell = cell.split_once('>').unwrap().1;
            // The first number of a cell; the rest is a note.
            exact(cell.split("<div").next().unwrap())
        });
        cells.collect()
    };
    body.split("<tr>").skip(1).map(|row| cells(&row.replace("<time", "<i"))).collect()
}

/// What a page links to, with what is after a text.
fn links(page: &str, beginning: &str) -> Vec<String> {
    let links = page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    links
        .filter(|link| link.starts_with(beginning))
        .map(|link| link.replace("&amp;", "&").replace("&#38;", "&"))
        .collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    }
}

/// Without the point: nano-dollars of dollars. What is not known adds nothing.
fn nano(text: &str) -> i64 {
    if text == "unknown" { 0 } else { text.replace('.', "").parse().unwrap() }
}

/// The figures of a usage page beside what the API says.
fn agrees(page: &str, sums: &Value) {
    for (name, field) in [
        ("Cost", "total_cost_usd"),
        ("Calls", "total_requests"),
        ("Input tokens", "total_input_tokens"),
        ("Output tokens", "total_output_tokens"),
        ("Written to the cache", "total_cache_write_tokens"),
        ("Read from the cache", "total_cache_read_tokens"),
    ] {
        assert_eq!(figure(page, name), text(&sums[field]), "{name}");
    }
    let failed =
        sums["total_requests"].as_i64().unwrap() - sums["successful_requests"].as_i64().unwrap();
    let note = between(page, "<dt>Calls</dt>", "</div>");
    assert_eq!(number(between(note, "<dd class=\"note\">", " failed")), failed);
    assert_eq!(
        number(between(note, "failed, ", " known")),
        sums["estimated_requests"].as_i64().unwrap()
    );
    let unpriced = sums["unpriced_requests"].as_i64().unwrap();
    if unpriced > 0 {
        let note = between(page, "<dt>Cost</dt>", "</div>");
        assert_eq!(number(between(note, "<dd class=\"note\">", " calls without")), unpriced);
    }
}

on_both_databases!(figures_are_those_of_the_api_to_the_nano_dollar, backend => {
    let town = Town::on(backend).await;
    town.grow(350).await;

    for everybody in [false, true] {
        let (browser, path) = town.as_seen(everybody, "/usage", "/admin/usage");
        for (from, to) in [(0, 0), (6, 0), (29, 0), (89, 0), (119, 3), (40, 40)] {
            let total = town.sums(everybody, (from, to), "group_by=").await;
            let page = look(browser, &format!("{path}?from={}&to={}&group=region", town.day(from), town.day(to))).await;
            let Some(total) = total.first() else {
                assert_eq!(figure(&page, "Calls"), "0");
                continue;
            };
            agrees(&page, total);
            // The chart's numbers add up to the same, in days or months.
            for (measure, sum) in [("requests", "total_requests"), ("tokens", "total_tokens"), ("cost", "total_cost_usd")] {
                let page = look(browser, &format!("{path}?from={}&to={}&measure={measure}", town.day(from), town.day(to))).await;
                let region = format!("by {} and model, UTC: the numbers", if from - to > 34 { "week" } else { "day" });
                let label = page.split("aria-label=\"").find(|label| label.split('"').next().unwrap().ends_with(&region)).unwrap();
                let rows = table(&page, label.split('"').next().unwrap());
                let values = rows.iter().map(|row| row.last().unwrap().clone()).filter(|value| value != "–");
                let of_chart: i64 = values.map(|value| nano(&value)).sum();
                assert_eq!(of_chart, nano(&text(&total[sum])), "{measure} {from} {to}");
                assert_eq!(rows.len() as i64, if from - to > 34 { rows.len() as i64 } else { from - to + 1 });
            }
            let regions = town.sums(everybody, (from, to), "group_by=region").await;
            let told: Vec<Vec<String>> = table(&page, "Sums").into_iter().map(|row| row[..4].to_vec()).collect();
            let known: Vec<Vec<String>> = regions.iter().map(|sums| ["region", "total_requests", "total_tokens", "total_cost_usd"].map(|name| text(&sums[name])).to_vec()).collect();
            assert_eq!(told, known);
        }
    }
    let overview = look(&town.own, "/").await;
    let everybodys = look(&town.admin, "/admin?days=90").await;
    for (page, everybody, ranges) in [(&overview, false, &[("Today", 0), ("Last 7 days", 6), ("Last 30 days", 29)][..]), (&everybodys, true, &[("Today", 0), ("Last 7 days", 6), ("Last 30 days", 29), ("Last 90 days", 89)])] {
        for (name, days) in ranges {
            let total = &town.sums(everybody, (*days, 0), "group_by=").await[0];
            assert_eq!(figure(page, &format!("{name} (UTC)")), text(&total["total_cost_usd"]), "{name}");
            let note = between(page, &format!("<dt>{name} (UTC)</dt>"), "</div>");
            assert_eq!(number(between(note, "<dd class=\"note\">", " tokens")), total["total_tokens"].as_i64().unwrap());
        }
    }
    // By model, the one that cost most first; what is not known comes last.
    for (page, everybody, days) in [(&overview, false, 29), (&everybodys, true, 89)] {
        let told = table(page, "Spend by model");
        let known = town.sums(everybody, (days, 0), "group_by=model").await;
        let of = |name: &str| known.iter().find(|sums| sums["model_id"] == name).unwrap();
        assert_eq!(told.len(), 3);
        for row in told {
            let sums = of(&row[0]);
            assert_eq!(&row[1..4], ["total_requests", "total_tokens", "total_cost_usd"].map(|name| text(&sums[name])));
        }
    }
    let people = town.sums(true, (89, 0), "group_by=user").await;
    let told = table(&everybodys, "Spend by person");
    assert_eq!(told.len(), 2);
    for (row, sums) in told.iter().zip(&people) {
        assert_eq!(row[1..3], [text(&sums["total_requests"]), text(&sums["total_cost_usd"])]);
    }
    let listed = table(&look(&town.admin, &format!("/admin/usage?group=person&from={}&to={}", town.day(119), town.day(0))).await, "Sums");
    let people = town.sums(true, (119, 0), "group_by=user").await;
    let known: Vec<Vec<String>> = people.iter().map(|sums| ["total_requests", "total_tokens", "total_cost_usd"].map(|name| text(&sums[name])).to_vec()).collect();
    assert_eq!(listed.iter().map(|row| row[1..4].to_vec()).collect::<Vec<_>>(), known);
    // Who spends more than in the week before.
    let week = async |from: i64, to: i64| {
        let sums = town.sums(true, (from, to), "group_by=user").await;
        sums.iter().map(|sums| (sums["user_id"].as_i64().unwrap(), nano(&text(&sums["total_cost_usd"])))).collect::<BTreeMap<i64, i64>>()
    };
    let (recent, before) = (week(7, 1).await, week(14, 8).await);
    let moved = table(&everybodys, "Changes of spend");
    for row in &moved {
        assert_eq!(nano(&row[2]) - nano(&row[1]), nano(&row[3]), "{row:?}");
    }
    let told: BTreeSet<(i64, i64)> = moved.iter().map(|row| (nano(&row[1]), nano(&row[2]))).collect();
    let known: BTreeSet<(i64, i64)> = [town.user_id, town.admin_id].into_iter().map(|id| (before.get(&id).copied().unwrap_or(0), recent.get(&id).copied().unwrap_or(0))).filter(|(a, b)| a != b).collect();
    assert_eq!(told, known);
    // Errors and times of days are those of the API.
    let month = look(&town.admin, "/admin").await;
    let daily = town.admin.get(&format!("/api/admin/usage/summaries?period_type=daily&group_by=&limit=500&start_date={}", town.day(89))).await.json();
    let by_day: BTreeMap<String, Value> = daily["summaries"].as_array().unwrap().iter().map(|sums| (sums["period_start"].as_str().unwrap()[..10].to_owned(), sums.clone())).collect();
    for row in table(&month, "Failed calls by day, UTC: the numbers") {
        let sums = by_day.get(&row[0]).cloned().unwrap_or(json!({"total_requests": 0, "successful_requests": 0}));
        let calls = sums["total_requests"].as_i64().unwrap();
        assert_eq!((row[1].parse::<i64>().unwrap(), row[2].parse::<i64>().unwrap()), (calls - sums["successful_requests"].as_i64().unwrap(), calls), "{row:?}");
    }
    for row in table(&month, "Average times by day, UTC: the numbers") {
        let told = |value: Option<&Value>| match value.and_then(Value::as_i64) { None => "–".to_owned(), Some(ms @ ..1000) => format!("{ms} ms"), Some(ms) => ms.to_string() };
        let sums = by_day.get(&row[0]);
        assert_eq!(row[1..], [told(sums.map(|sums| &sums["avg_response_time_ms"])), told(sums.map(|sums| &sums["avg_time_to_first_byte_ms"]))], "{row:?}");
    }
});

on_both_databases!(after_a_clean_up_sums_are_of_what_is_kept_and_say_so, backend => {
    let town = Town::on(backend).await;
    town.grow(350).await;
    let pool = town.app.pool().await;
    let work = Work { pool: &pool, fence: None, stop: CancellationToken::new(), progress: &|_| {} };
    let kept = [(Level::Records, 20), (Level::Summaries(Period::Hourly), 3), (Level::Summaries(Period::Daily), 50), (Level::Summaries(Period::Weekly), 60)];
    clean_up::clean_up(&work, &kept, town.now, &Origin::operator()).await.unwrap();

    for (from, to, whole) in [(10, 0, true), (29, 0, true), (49, 0, true), (89, 0, false), (119, 70, false)] {
        for everybody in [false, true] {
            let (browser, path) = town.as_seen(everybody, "/usage", "/admin/usage");
            let total = town.sums(everybody, (from, to), "group_by=").await;
            let page = look(browser, &format!("{path}?from={}&to={}&measure=requests", town.day(from), town.day(to))).await;
            agrees(&page, &total[0]);
            let chart = table(&page, &format!("Calls by {} and model, UTC: the numbers", match (whole, from) { (false, _) => "month", (true, 49) => "week", _ => "day" }));
            let of_chart: i64 = chart.iter().map(|row| row.last().unwrap().parse().unwrap_or(0)).sum();
            assert_eq!(json!(of_chart), total[0]["total_requests"]);
            assert_eq!(page.contains("only whole months are kept"), !whole, "{from} {to}");
            assert_eq!(page.contains("are cleaned up: they are in the figures"), from > 20, "{from} {to}");
        }
    }
    // The last days are whole, whatever became of those before.
    let page = look(&town.admin, "/admin?days=90").await;
    assert!(page.contains("the figures are of whole months there") && !page.contains("<dt>Last 90 days"));
    assert_eq!(figure(&look(&town.own, "/").await, "Last 30 days (UTC)"), text(&town.sums(false, (29, 0), "group_by=").await[0]["total_cost_usd"]));
});

/// Every call that the pages of a list show, by the number of its row.
async fn walk(browser: &Browser, path: &str) -> Vec<i64> {
    let mut seen = Vec::new();
    let mut at = path.to_owned();
    loop {
        let page = look(browser, &at).await;
        let calls = between(&page, "<h2>Calls</h2>", "</section>");
        let ids = links(calls, "/")
            .into_iter()
            .filter_map(|link| link.rsplit_once("usage/calls/")?.1.parse::<i64>().ok());
        seen.extend(ids);
        let Some((before, _)) = calls.split_once("rel=\"next\">Older") else { break };
        at = before
            .rsplit("href=\"")
            .next()
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .replace("&amp;", "&")
            .replace("&#38;", "&");
        assert!(calls.contains(">Newest</a>") == (seen.len() > 25), "{at}");
    }
    seen
}

on_both_databases!(filters_narrow_the_list_and_the_sums_alike, backend => {
    let town = Town::on(backend).await;
    town.grow(350).await;
    let range = format!("from={}&to={}&limit=25", town.day(119), town.day(0));
    let dates = format!("start_date={}&end_date={}", town.day(119), town.day(-1));

    for (everybody, filter, same) in [
        (false, String::new(), String::new()),
        (false, format!("model={HAIKU}"), format!("model={HAIKU}")),
        (false, format!("model={NEW}&region=eu-west-1"), format!("model={NEW}&region=eu-west-1")),
        (false, format!("key={}", town.keys[0]), format!("key_id={}", town.keys[0])),
        (false, format!("key={}&region=us-east-1&model={MODEL}", town.keys[1]), format!("key_id={}&region=us-east-1&model={MODEL}", town.keys[1])),
        (false, "outcome=timeout".to_owned(), "outcome=timeout".to_owned()),
        (false, format!("outcome=success&model={MODEL}"), format!("outcome=success&model={MODEL}")),
        (false, "model=unknown.model".to_owned(), "model=unknown.model".to_owned()),
        (false, format!("user_id={}", town.admin_id), String::new()),
        (true, String::new(), String::new()),
        (true, format!("user_id={}", town.admin_id), format!("user_id={}", town.admin_id)),
        (true, format!("user_id={}&key={}", town.user_id, town.keys[0]), format!("user_id={}&key_id={}", town.user_id, town.keys[0])),
        (true, format!("key={}&outcome=success", town.keys[1]), format!("key_id={}&outcome=success", town.keys[1])),
        (true, "region=eu-west-1&outcome=timeout".to_owned(), "region=eu-west-1&outcome=timeout".to_owned()),
    ] {
        let (browser, path) = town.as_seen(everybody, "/usage", "/admin/usage");
        let page = look(browser, &format!("{path}?{range}&{filter}")).await;
        let (_, api) = town.as_seen(everybody, "/api/usage/records", "/api/admin/usage/records");
        let listed = browser.get(&format!("{api}?limit=500&{dates}&{same}")).await.json();
        let records = listed["records"].as_array().unwrap();

        let seen = walk(browser, &format!("{path}?{range}&{filter}")).await;

        let ids: Vec<i64> = records.iter().map(|record| record["id"].as_i64().unwrap()).collect();
        assert_eq!(seen, ids, "{filter}: every call once, in order");
        let sum = |field: &str| records.iter().filter_map(|record| record[field].as_i64()).sum::<i64>();
        let nano = records.iter().filter_map(|record| record["cost_usd"].as_str()).map(|text| text.replace('.', "").parse::<i64>().unwrap());
        let unpriced = records.iter().filter(|record| record["cost_usd"].is_null()).count();
        let nano: i64 = nano.sum();
        let cost = if unpriced > 0 && nano == 0 { "unknown".to_owned() } else { format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000) };
        let told = ["Cost", "Calls", "Input tokens", "Output tokens", "Read from the cache"].map(|name| figure(&page, name));
        assert_eq!(told, [cost, records.len().to_string(), sum("input_tokens").to_string(), sum("output_tokens").to_string(), sum("cache_read_tokens").to_string()], "{filter}");
        // The file is of the same calls.
        let file = links(&page, "/api/").into_iter().find(|link| link.contains("format=csv")).unwrap();
        let file = browser.get(&file).await;
        assert_eq!((file.status.as_u16(), csv::Reader::from_reader(file.body.as_ref()).records().count()), (200, records.len()), "{filter}");
        let lines = links(&page, "/api/").into_iter().find(|link| link.contains("format=jsonl")).unwrap();
        let lines = browser.get(&lines).await;
        let lines: Vec<Value> = std::str::from_utf8(&lines.body).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(&lines, records, "{filter}");
        // Every way to group them has the same sum.
        for group in ["model", "region", "key", "day", "person"] {
            if records.is_empty() || group == "person" && !everybody {
                continue;
            }
            let page = look(browser, &format!("{path}?{range}&{filter}&group={group}")).await;
            if page.contains("Keys belong to people") || page.contains("is not summed up for everybody") {
                assert!(everybody && !filter.contains("user_id") && !filter.contains("outcome"), "{filter} {group}");
                continue;
            }
            let rows = table(&page, "Sums");
            let calls: usize = rows.iter().map(|row| row[1].parse::<usize>().unwrap()).sum();
            let parts = rows.iter().filter(|row| row[3] != "unknown").map(|row| row[3].replace('.', "").parse::<i64>().unwrap());
            assert_eq!((calls, parts.sum::<i64>()), (records.len(), nano), "{filter} {group}");
        }
    }
});

on_both_databases!(what_is_asked_wrongly_is_told_beside_its_field, backend => {
    let town = Town::on(backend).await;
    town.grow(10).await;
    let theirs = town.admin.api("POST", "/api/keys", Some(&json!({"name": "theirs"}))).await.json()["id"].to_string();

    for (field, query, kept) in [
        ("to", "from=2026-11-20&to=2026-11-01", "2026-11-01"),
        ("from", "from=300000-01-01", "300000-01-01"),
        ("from", "from=1999-12-31", "1999-12-31"),
        ("to", "to=2026-02-30", "2026-02-30"),
        ("to", "to=yesterday", "yesterday"),
        ("outcome", "outcome=victory", "victory"),
        ("key", "key=mine", "mine"),
        ("key", "key=99999999999999999999", "99999999999999999999"),
        ("key", "key=-1", "-1"),
        ("key", &format!("key={theirs}"), &theirs),
        ("limit", "limit=0", "0"),
        ("limit", "limit=501", "501"),
        ("limit", "limit=many", "many"),
        ("model", &format!("model={}", "m".repeat(3000)), "mmmm"),
        ("region", "region=%00", ""),
    ] {
        for path in ["/usage", "/admin/usage"] {
            // An admin may ask for everybody's keys.
            if path.starts_with("/admin") && query == format!("key={theirs}") {
                continue;
            }
            let browser = if path == "/usage" { &town.own } else { &town.admin };
            let reply = browser.get(&format!("{path}?{query}&measure=tokens")).await;
            let page = html(&reply);

            assert_eq!(reply.status, 400, "{path}?{query}: {page}");
            assert!(page.contains(&format!("id=\"{field}\" name=\"{field}\"")), "{field}");
            let input = between(&page, &format!("id=\"{field}\" name=\"{field}\""), ">");
            assert!(input.contains(&format!("aria-invalid=\"true\" aria-describedby=\"{field}-problem\"")), "{query}: {input}");
            assert!(page.contains(&format!("<p class=\"problem\" id=\"{field}-problem\">")), "{query}");
            let form = between(&page, "<form method=\"get\"", "</form>");
            assert!(form.contains(kept) && form.contains("name=\"measure\" value=\"tokens\""), "{query}: {form}");
            assert!(!page.contains("<dt>Cost</dt>"), "no figures of something else: {query}");
            let whole = html(&browser.get(path).await);
            let models = |page: &str| between(page, "<select id=\"model\"", "</select>").matches("<option").count();
            assert!(models(&whole) > 2 && models(&page) >= models(&whole), "models are offered: {query}");
        }
    }
    for (path, status, told) in [
        ("/usage?cursor=garbage", 400, "begin with the first"),
        ("/usage?measure=love", 400, "Choose one of cost, tokens, requests."),
        ("/usage?group=person", 400, "Choose one of model, region, key, day."),
        ("/usage?unknown=member&from=&to=&model=&key=", 200, "<dt>Cost</dt>"),
        ("/usage?user_id=nobody", 200, "<dt>Cost</dt>"),
        ("/usage?from=2150-01-01&to=2199-12-31", 200, "No calls in these days"),
        ("/usage?from=2000-01-01&to=2199-12-31", 200, "<dt>Cost</dt>"),
    ] {
        let reply = town.own.get(path).await;
        assert_eq!(reply.status, status, "{path}: {reply:?}");
        assert!(html(&reply).contains(told), "{path}");
    }
    for (path, status, told) in [
        ("/admin/usage?user_id=999999", 400, "There is no such person."),
        ("/admin/usage?user_id=ada", 400, "Nobody has this address"),
        ("/admin/usage?user_id=999999999999999999999", 400, "Nobody has this address"),
        (&format!("/admin/usage?user_id={}&key={theirs}", town.user_id), 400, "There is no such key."),
        ("/admin?days=31", 400, "days must be 7, 30 or 90."),
        ("/admin?days=", 200, "Everybody"),
    ] {
        let reply = town.admin.get(path).await;
        assert_eq!(reply.status, status, "{path}: {reply:?}");
        assert!(html(&reply).contains(told), "{path}");
    }
});

on_both_databases!(without_usage_pages_say_what_to_do_first, backend => {
    let town = Town::on(backend).await;

    let home = look(&town.own, "/").await;
    assert!(home.contains("Nothing was called yet") && home.contains("href=\"/connect\""));
    assert!(!home.contains("<dl class=\"figures\">"));
    for (browser, path) in [(&town.own, "/usage"), (&town.admin, "/admin/usage"), (&town.admin, "/admin/usage?group=person"), (&town.own, "/usage?outcome=timeout")] {
        let page = look(browser, path).await;
        assert!(page.contains("No calls in these days that pass the filters."), "{path}");
        assert_eq!((figure(&page, "Calls"), figure(&page, "Cost")), ("0".to_owned(), "0.000000000".to_owned()));
    }
    assert!(look(&town.admin, "/admin").await.contains("Nobody called anything in these days."));
});

on_both_databases!(a_model_without_a_price_is_unknown_and_never_free, backend => {
    let town = Town::on(backend).await;
    let call = NewUsage { model_id: NEW.to_owned(), user_id: town.user_id, outcome: "success".to_owned(), input_tokens: Some(5), estimated: false, ..town.call(1) };
    town.write(vec![call]).await;

    let home = look(&town.own, "/").await;
    assert_eq!(figure(&home, "Today (UTC)"), "unknown");
    assert_eq!(table(&home, "Spend by model")[0][3], "unknown");
    let calls = table(&home, "Calls");
    assert_eq!(calls[0][4], "unknown");
    let page = look(&town.own, "/usage").await;
    assert_eq!(figure(&page, "Cost"), "unknown");
    assert!(page.contains("1 calls without a cost are not in it"));
    let overview = look(&town.admin, "/admin").await;
    assert_eq!(figure(&overview, "Today (UTC)"), "unknown");
    let unpriced = table(&overview, "Models without a price");
    let known = town.admin.get("/api/admin/models/unpriced").await.json();
    let known = &known["models"][0];
    let [model, region, reason, calls] =
        ["model_id", "region", "reason", "unpriced_requests"].map(|name| text(&known[name]));
    assert_eq!(unpriced, [[format!("{model} {region}"), reason, calls]]);
    assert!(between(&overview, "Models without a price</h2>", "</section>").contains("href=\"/admin/costs\""));
    let one = links(&page, "/usage/calls/").remove(0);
    let one = look(&town.own, &one).await;
    assert_eq!(figure(&one, "Cost"), "unknown");
    assert!(one.contains("there was no price for this model in this region"));
});

on_both_databases!(a_call_shows_the_sum_that_its_cost_is, backend => {
    let town = Town::on(backend).await;
    let call = |name: &str, model: &str, tokens: [i64; 5]| NewUsage {
        call_id: name.to_owned(), user_id: town.user_id, key_id: None, model_id: model.to_owned(), outcome: "success".to_owned(), estimated: false, region: "us-east-1".to_owned(),
        input_tokens: Some(tokens[0]), output_tokens: Some(tokens[1]), cache_write_tokens: Some(tokens[2]), cache_write_1h_tokens: Some(tokens[3]), cache_read_tokens: Some(tokens[4]), ..town.call(0)
    };
    town.write(vec![call("small", MODEL, [1234, 567, 3000, 1000, 15_000]), call("long", MODEL, [100_001, 1000, 50_000, 50_000, 50_000])]).await;
    let mut row = call("counted", MODEL, [0; 5]);
    row.operation = "count_tokens".to_owned();
    town.write(vec![row]).await;
    let records = town.own.get("/api/usage/records").await.json()["records"].as_array().unwrap().clone();

    for record in &records {
        let page = look(&town.own, &format!("/usage/calls/{}", record["id"])).await;
        assert_eq!(figure(&page, "Cost"), text(&record["cost_usd"]));
        assert!(page.contains(&format!("exactly ${}", text(&record["cost_usd"]))));
        if record["operation"] == "count_tokens" {
            assert!(page.contains("Counting tokens costs nothing."));
            continue;
        }
        // A person with a calculator comes to the same.
        let lines = table(&page, "Tokens, prices and cost");
        assert_eq!(lines.len(), 5);
        let decimal = |text: &str, places: usize| {
            let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
            format!("{whole}{rest:0<places$}").parse::<i128>().unwrap()
        };
        let mut sum = 0;
        for line in &lines {
            let (tokens, price, cost) = (line[1].parse::<i128>().unwrap(), decimal(&line[2], 6), decimal(&line[3], 12));
            assert_eq!(tokens * price, cost, "{line:?}");
            sum += cost;
        }
        let counts: i64 = lines.iter().map(|line| line[1].parse::<i64>().unwrap()).sum();
        assert_eq!(counts, record["total_tokens"].as_i64().unwrap());
        assert_eq!((sum + 500) / 1000, decimal(record["cost_usd"].as_str().unwrap(), 9));
        assert!(page.contains(&format!("row {} of the ledger (shipped)", record["price_id"])));
        assert_eq!(page.contains("the prices for prompts of more than 200,000 tokens"), record["input_tokens"] == 100_001);
    }
    let id = &records[0]["id"];
    // Somebody else's is not told from one that is not there; admins see everybody's.
    assert_eq!(town.admin.get(&format!("/usage/calls/{id}")).await.status, 404);
    assert_eq!(town.own.get("/usage/calls/999999").await.status, 404);
    assert_eq!(town.own.get("/usage/calls/one").await.status, 400);
    assert_eq!(town.own.get(&format!("/admin/usage/calls/{id}")).await.status, 403);
    assert!(look(&town.admin, &format!("/admin/usage/calls/{id}")).await.contains("developer@example.com"));
});

on_both_databases!(names_that_are_programs_are_shown_as_text, backend => {
    let town = Town::on(backend).await;
    let hostile = ["<script>alert(1)</script>\"><img src=x onerror=alert(2)>", "\u{202e}txt.exe \u{5d0}\u{5d1}", "🦀🦀 model", "&amp;lt;b&gt;"];
    let long = "m".repeat(1000);
    let names: Vec<&str> = hostile.into_iter().chain([long.as_str()]).collect();
    let rows = names.iter().enumerate().map(|(number, name)| NewUsage {
        call_id: format!("odd-{number}"), user_id: town.user_id, key_id: Some(town.keys[0]), model_id: (*name).to_owned(), model_requested: (*name).to_owned(),
        error_message: Some((*name).to_owned()), error_code: Some("x".to_owned()), stop_reason: Some((*name).to_owned()), ..town.call(0)
    });
    town.write(rows.collect()).await;
    let renamed = json!({"name": "<b>key</b>"});
    assert_eq!(town.own.api("PATCH", &format!("/api/keys/{}", town.keys[0]), Some(&renamed)).await.status, 200);

    let query: String = url::form_urlencoded::byte_serialize(hostile[0].as_bytes()).collect();
    let calls = links(&look(&town.own, "/usage").await, "/usage/calls/");
    for (browser, path) in [
        (&town.own, "/".to_owned()),
        (&town.own, "/usage".to_owned()),
        (&town.own, "/usage?group=key".to_owned()),
        (&town.own, format!("/usage?model={query}")),
        (&town.own, format!("/usage?model={query}&region={query}")),
        (&town.admin, "/admin".to_owned()),
        (&town.admin, "/admin/usage".to_owned()),
        (&town.own, calls[0].clone()),
        (&town.own, calls[4].clone()),
    ] {
        let page = look(browser, &path).await;
        let main = between(&page, "<main", "</main>");
        for program in ["<script", "<img", "<b>"] {
            assert!(!main.contains(program), "{path}");
        }
    }
    for (field, path) in [("from", format!("/usage?from={query}")), ("outcome", format!("/usage?outcome={query}")), ("limit", format!("/usage?limit={query}"))] {
        let reply = town.own.get(&path).await;
        let page = html(&reply);
        assert_eq!(reply.status, 400, "{field}");
        assert!(!between(&page, "<main", "</main>").contains("<img"), "{field}");
    }
    // Each name leads to its own calls, and to no others.
    let page = look(&town.own, "/usage").await;
    let narrowed: Vec<String> = links(between(&page, "aria-label=\"Sums\"", "</table>"), "/usage?");
    assert_eq!(narrowed.len(), names.len());
    for link in narrowed {
        assert_eq!(figure(&look(&town.own, &link).await, "Calls"), "1", "{link}");
    }
});

on_both_databases!(too_many_calls_to_add_up_have_no_sums_rather_than_wrong_ones, backend => {
    let town = Town::on(backend).await;
    let calls = |from: i64, to: i64| (from..to).map(|number| NewUsage {
        call_id: format!("late-{number}"), user_id: town.user_id, outcome: "timeout".to_owned(), request_time: town.now - TimeDelta::minutes(number), ..town.call(number)
    }).collect::<Vec<_>>();
    town.write(calls(0, 2000)).await;
    let path = "/usage?outcome=timeout";
    assert_eq!(figure(&look(&town.own, path).await, "Calls"), "2000");

    town.write(calls(2000, 2001)).await;

    let page = look(&town.own, path).await;
    assert!(page.contains("More than 2,000 calls ended like this") && !page.contains("<dt>Cost</dt>"));
    assert_eq!(figure(&look(&town.own, "/usage").await, "Calls"), "2001");
    assert_eq!(links(&page, "/usage/calls/").len(), 25);
});

on_both_databases!(an_admin_asks_for_a_person_by_address, backend => {
    let town = Town::on(backend).await;
    town.grow(12).await;
    let page = async |person: &str| {
        let asked = form(&[("user_id", person)]);
        town.admin.get(&format!("/admin/usage?{asked}")).await
    };
    let calls = |reply: &Reply| {
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        text.matches("/admin/usage/calls/").count()
    };

    let (by_id, by_address) = (page(&town.user_id.to_string()).await, page("Developer@Example.COM").await);

    assert_eq!(by_address.status, 200);
    assert!(calls(&by_id) > 0 && calls(&by_id) == calls(&by_address));
    for unknown in ["nobody@example.com", "\0", "<b>", "99999999999999999999"] {
        let reply = page(unknown).await;
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        assert_eq!(reply.status, 400, "{unknown:?}");
        assert!(text.contains("Nobody has this address"), "{unknown:?}");
    }
});
