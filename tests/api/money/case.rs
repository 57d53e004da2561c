//! What the independent computation is given: calls, prices, and everything that the service answers of them.

use std::collections::{BTreeMap, BTreeSet};

use bedrock_sso_proxy::{db::usage::NewUsage, simulator::Call};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Person, Prices, Spoken, month};
use crate::helpers::TestServer;

/// How much is asked: with [`Depth::Whole`] in every list and file, and in more groupings, small pages and ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Some,
    Whole,
}

/// A file for `tests/money/oracle.py`.
#[derive(Clone, Serialize)]
pub struct Case {
    shipped: String,
    changes: Vec<Value>,
    price_ids: Map<String, Value>,
    /// What was sent; `None` = take the export's word for what was called, and how it went.
    pub sent: Option<Vec<Value>>,
    /// `None` = single calls are not kept any more.
    pub jsonl: Option<Vec<String>>,
    csv: Option<String>,
    pub records: Option<Vec<Value>>,
    /// What people export of their own, by their ids.
    own: BTreeMap<i64, Vec<String>>,
    upstream: Vec<Call>,
    /// Tokens that Bedrock was made to name, by request id.
    echoed: BTreeMap<String, Value>,
    pub answers: Vec<Answer>,
    /// From when on single periods are kept.
    kept: BTreeMap<&'static str, String>,
}

#[derive(Clone, Serialize)]
pub struct Answer {
    question: Question,
    summaries: Vec<Value>,
    total: i64,
}

impl Answer {
    pub fn drop_one(&mut self) {
        self.summaries.pop();
    }
}

#[derive(Debug, Clone, Serialize)]
struct Question {
    route: &'static str,
    user_id: Option<i64>,
    period_type: &'static str,
    group_by: Vec<&'static str>,
    model_id: Option<&'static str>,
    start_date: Option<String>,
    end_date: Option<String>,
    #[serde(skip)]
    limit: usize,
    #[serde(skip)]
    token: String,
}

/// What it found. `calls` counts each list or file that a call stands in.
#[derive(Debug, Deserialize)]
pub struct Report {
    pub calls: usize,
    /// Those of them that cost something.
    pub priced: usize,
    pub groups: usize,
    pub answers: usize,
    /// Calls whose tokens were compared with what Bedrock said.
    pub metered: usize,
    pub found: usize,
    pub named: Vec<String>,
}

impl Report {
    pub fn assert_agrees(&self, of: &str) {
        assert_eq!(self.found, 0, "{of}: {} disagreements\n{}", self.found, self.named.join("\n"));
    }
}

impl Case {
    /// Asks for all that there is.
    pub async fn of(app: &TestServer, people: &[Person], prices: &Prices, depth: Depth) -> Self {
        let token = &people[0].token;
        let mut case = Self::without_calls(prices);
        let lines = |file: String| file.lines().map(str::to_owned).collect();
        case.jsonl = Some(lines(export(app, token, "/api/admin/usage/export?format=jsonl").await));
        if depth == Depth::Whole {
            case.csv = Some(export(app, token, "/api/admin/usage/export?format=csv").await);
            let (records, total) =
                pages(app, token, "/api/admin/usage/records?limit=500", "records").await;
            assert_eq!(i64::try_from(records.len()), Ok(total));
            case.records = Some(records);
            for person in people {
                let own = export(app, &person.token, "/api/usage/export?format=jsonl").await;
                case.own.insert(person.id, lines(own));
            }
        }
        case.answers = ask(app, questions(people, depth)).await;
        case
    }

    fn without_calls(prices: &Prices) -> Self {
        Self {
            shipped: concat!(env!("CARGO_MANIFEST_DIR"), "/settings/pricing.csv").to_owned(),
            changes: prices.changes.clone(),
            price_ids: prices.ids.clone(),
            sent: None,
            jsonl: None,
            csv: None,
            records: None,
            own: BTreeMap::new(),
            upstream: Vec::new(),
            echoed: BTreeMap::new(),
            answers: Vec::new(),
            kept: BTreeMap::new(),
        }
    }

    /// Only what summaries say, without what is cleaned up.
    pub async fn of_summaries(
        app: &TestServer,
        people: &[Person],
        prices: &Prices,
        kept: BTreeMap<&'static str, String>,
    ) -> Self {
        let mut case = Self::without_calls(prices);
        // A range is widened to what is kept: those of whole months alone mean what they say.
        let mut questions = questions(people, Depth::Some);
        questions.retain(|question| question.start_date.is_none());
        case.answers = ask(app, questions).await;
        case.kept = kept;
        case
    }

    /// With what the simulated Bedrock knows of the calls.
    pub fn with(mut self, app: &TestServer, spoken: &Spoken) -> Self {
        self.upstream = app.simulator.ledger().calls();
        for call in &mut self.upstream {
            call.received_headers.clear();
        }
        self.echoed = spoken.echoed.clone();
        self
    }

    /// The newest call that costs something.
    pub fn first_record(&mut self) -> &mut Value {
        let costs =
            |row: &&mut Value| !matches!(row["cost_usd"].as_str(), None | Some("0.000000000"));
        self.records.as_mut().unwrap().iter_mut().find(costs).unwrap()
    }

    pub fn first_group(&mut self) -> &mut Value {
        &mut self.answers[0].summaries[0]
    }

    /// The calls, for another service to record.
    pub fn rows(&self) -> Vec<NewUsage> {
        let row = |line: &String| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            let time = row["request_time"].as_str().unwrap().trim_end_matches('Z').to_owned();
            row["request_time"] = time.into();
            serde_json::from_value(row).unwrap()
        };
        self.jsonl.as_ref().unwrap().iter().map(row).collect()
    }

    pub fn assert_has_every_ending(&self) {
        let rows = self.rows();
        let endings: BTreeSet<&str> = rows.iter().map(|row| row.outcome.as_str()).collect();
        let wanted = [
            "client_disconnect",
            "revoked",
            "shutdown",
            "success",
            "timeout",
            "upstream_cut",
            "upstream_error",
        ];
        assert_eq!(endings, BTreeSet::from(wanted));
        let places: BTreeSet<&str> = rows.iter().map(|row| row.region.as_str()).collect();
        assert_eq!(places, BTreeSet::from(["ap-northeast-1", "eu-west-1", "us-east-1"]));
    }

    /// Has the computation done.
    pub async fn work_out(&self) -> Report {
        let python =
            std::env::var("TEST_PYTHON").expect("TEST_PYTHON is a Python; `make test` makes one");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case.json");
        std::fs::write(&path, serde_json::to_vec(self).unwrap()).unwrap();
        let output = tokio::process::Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/money/oracle.py"))
            .arg(&path)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .await
            .expect("Python runs");
        let report: Report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(output.status.code(), Some(i32::from(report.found > 0)), "{report:?}");
        report
    }
}

async fn export(app: &TestServer, token: &str, path: &str) -> String {
    let reply = app.get(path).bearer(token).send().await;
    assert!(reply.status == 200 && reply.complete, "{path}: {:?}", reply.status);
    String::from_utf8(reply.body.to_vec()).unwrap()
}

/// All pages of a list, by their cursors, and the total that each of them named.
pub async fn pages(app: &TestServer, token: &str, path: &str, member: &str) -> (Vec<Value>, i64) {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let reply = app.get(&format!("{path}{cursor}")).bearer(token).send().await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        let mut page = reply.json();
        let Value::Array(more) = page[member].take() else { panic!("{path}: {page}") };
        rows.extend(more);
        assert_eq!(page["total_is_capped"], false, "{path}");
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (rows, page["total"].as_i64().unwrap()),
        }
    }
}

async fn ask(app: &TestServer, questions: Vec<Question>) -> Vec<Answer> {
    let answer = |question: Question| async move {
        let Question { route, period_type, limit, .. } = question;
        let mut path = format!(
            "{route}?period_type={period_type}&group_by={}&limit={limit}",
            question.group_by.join(",")
        );
        let texts = [
            ("model_id", question.model_id),
            ("start_date", question.start_date.as_deref()),
            ("end_date", question.end_date.as_deref()),
        ];
        for (name, value) in texts {
            path.extend(value.map(|value| format!("&{name}={value}")));
        }
        if let Some(id) = question.user_id.filter(|_| route == ADMINS) {
            path.push_str(&format!("&user_id={id}"));
        }
        let (summaries, total) = pages(app, &question.token, &path, "summaries").await;
        Answer { question, summaries, total }
    };
    stream::iter(questions).map(answer).buffered(4).collect().await
}

const ADMINS: &str = "/api/admin/usage/summaries";
const OWN: &str = "/api/usage/summaries";

fn questions(people: &[Person], depth: Depth) -> Vec<Question> {
    const PERIODS: [&str; 5] = ["hourly", "daily", "weekly", "monthly", "total"];
    let admin = |period_type, group_by: &[&'static str]| Question {
        route: ADMINS,
        user_id: None,
        period_type,
        group_by: group_by.to_vec(),
        model_id: None,
        start_date: None,
        end_date: None,
        limit: 500,
        token: people[0].token.clone(),
    };
    let every: &[&str] = &["user", "model", "region", "endpoint", "key"];
    let few: [&[&str]; 4] = [&[], &["user"], &["model", "region"], &["endpoint", "key"]];
    let more: [&[&str]; 5] = [&["key"], &["model"], &["region"], &["endpoint"], &["user", "model"]];
    let mut all = Vec::new();
    for period in PERIODS {
        let finest = if matches!(period, "hourly" | "monthly" | "total") {
            every
        } else {
            &["model", "key"]
        };
        let (few, more) =
            if period == "hourly" { (&few[..1], &few[2..3]) } else { (&few[..], &more[..]) };
        all.extend(few.iter().map(|by| admin(period, by)));
        if depth == Depth::Whole {
            all.extend(more.iter().chain([&finest]).map(|by| admin(period, by)));
        }
    }
    for person in people {
        let of = |period, by| Question { user_id: Some(person.id), ..admin(period, by) };
        let own =
            |period, by| Question { route: OWN, token: person.token.clone(), ..of(period, by) };
        all.extend(PERIODS.map(|period| own(period, &["model"])));
        all.extend([
            own("daily", &["key", "region"]),
            of("weekly", &["endpoint"]),
            of("total", every),
        ]);
    }
    if depth == Depth::Whole {
        // Small pages, one model, and ranges that begin and end anywhere.
        all.push(Question { limit: 7, ..admin("daily", &["model"]) });
        all.push(Question { limit: 7, ..admin("weekly", &["user", "key"]) });
        all.push(Question { limit: 3, ..admin("total", &["model"]) });
        for period in PERIODS {
            all.push(Question { model_id: Some(super::TITAN), ..admin(period, &["region"]) });
            let [_, middle, late] = month::price_changes();
            let (middle, late) = (middle.min(late), middle.max(late));
            let start_date = Some(month::shown(middle));
            let end_date = Some(month::shown(late + chrono::TimeDelta::milliseconds(4_321_001)));
            all.push(Question { start_date, end_date, ..admin(period, &["model", "user"]) });
        }
    }
    all
}
