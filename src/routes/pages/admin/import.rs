//! `/admin/costs/import`: a file of prices; what it would change is shown first.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use askama::Template;
use serde::Deserialize;

use crate::{
    auth::Identity,
    db::{Timestamp, prices},
    pricing::{
        import::{self, BadLine, Entry, Tiers},
        is_jump,
        ledger::{self, Changed, Imported},
        money,
    },
    routes::{
        csrf::UploadByAdmin,
        error::ApiError,
        pages::{AdminViewer, Problem, Viewer, page, see},
        surface,
    },
    state::Worker,
    templates::{self, Place, Shell, show},
};

/// Changes that a page lists.
const LISTED: usize = 200;

/// A file, or its lines; and what to do with it.
#[derive(Debug, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct Upload {
    file: String,
    text: String,
    action: String,
    /// Of the ledger, as it was looked at.
    version: String,
}

impl Upload {
    fn content(self) -> String {
        if self.file.trim().is_empty() { self.text } else { self.file }
    }
}

#[derive(Template, Default)]
#[template(path = "admin/import.html")]
struct ImportPage {
    shell: Shell,
    preview: Option<Preview>,
    /// The preview is another than the one that was agreed to.
    stale: bool,
    text: String,
    bad: Vec<BadLine>,
    problem: Problem,
}

/// What a file would change.
struct Preview {
    added: i64,
    changed: i64,
    unchanged: i64,
    changes: Vec<Change>,
    /// Changes that are not listed.
    more: i64,
    /// Changes after which a price lacks something for the cache; and for input or output.
    without_cache: i64,
    without_more: i64,
    /// Changes of a price to at least ten times what it was, or a tenth.
    jumps: i64,
    version: i64,
}

struct Change {
    line: u64,
    region: String,
    model_id: String,
    is_new: bool,
    /// Calls had a broader price so far, which is what the new one is shown beside.
    is_narrower: bool,
    valid_from: Timestamp,
    /// When a price that is there already follows it.
    until: Option<Timestamp>,
    prices: [Pair; 7],
}

/// A price before, if it was another, and after.
struct Pair {
    before: Option<String>,
    after: String,
    /// The one is at least ten times the other.
    jump: bool,
}

impl Preview {
    fn new(imported: Imported, version: i64) -> Self {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let more = imported.changes.len().saturating_sub(LISTED);
        let without_cache = imported.changes.iter().filter(|Changed { entry, .. }| {
            entry.rates.cache_write.is_none() || entry.rates.cache_read.is_none()
        });
        let without_cache = number(without_cache.count());
        let without_more = imported.changes.iter().filter(|Changed { entry, .. }| {
            entry.rates.input.is_none() || entry.rates.output.is_none()
        });
        let without_more = number(without_more.count());
        let changes: Vec<Change> = imported.changes.into_iter().map(Change::new).collect();
        let jumps = changes.iter().filter(|change| change.prices.iter().any(|pair| pair.jump));
        let jumps = number(jumps.count());
        Self {
            added: number(imported.added),
            changed: number(imported.changed),
            unchanged: number(imported.unchanged),
            changes: changes.into_iter().take(LISTED).collect(),
            more: number(more),
            without_cache,
            without_more,
            jumps,
            version,
        }
    }
}

impl Change {
    fn new(Changed { entry, before, instead_of, until }: Changed) -> Self {
        let told =
            |pico: Option<i64>| pico.map_or_else(|| "–".to_owned(), money::price_per_million);
        let old = before.or(instead_of);
        let new = (entry.rates, entry.long);
        let pair = |class: fn(&Tiers) -> Option<i64>| {
            let (before, after) = (old.as_ref().map(class), class(&new));
            let jump = before.flatten().zip(after).is_some_and(|(old, new)| is_jump(old, new));
            let before = before.filter(|before| *before != after).map(told);
            Pair { before, after: told(after), jump }
        };
        Self {
            prices: [
                pair(|(rates, _)| rates.input),
                pair(|(rates, _)| rates.output),
                pair(|(rates, _)| rates.cache_write),
                pair(|(rates, _)| rates.cache_write_1h),
                pair(|(rates, _)| rates.cache_read),
                pair(|(_, long)| long.as_ref()?.input),
                pair(|(_, long)| long.as_ref()?.output),
            ],
            line: entry.line,
            is_new: before.is_none(),
            is_narrower: instead_of.is_some(),
            valid_from: entry.valid_from.unwrap_or_else(ledger::always),
            until,
            region: entry.region,
            model_id: entry.model_id,
        }
    }
}

/// `GET /admin/costs/import`
pub async fn ask(viewer: AdminViewer, worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    Ok(page(&ImportPage { shell: shell(&viewer.0, &worker).await?, ..ImportPage::default() }))
}

async fn shell(viewer: &Viewer, worker: &Worker) -> Result<Shell, ApiError> {
    let mut conn = worker.shared.pool.reader().await?;
    Ok(viewer.shell(&mut conn, worker, Place::AdminCosts).await?)
}

/// `POST /admin/costs/import`: shows what the file would change, or changes it if that is what was shown.
pub async fn take(
    request: HttpRequest,
    upload: UploadByAdmin<Upload>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let UploadByAdmin { identity, form } = upload;
    let (apply, agreed) = (form.action == "apply", form.version.parse::<i64>().ok());
    let text = form.content();
    let viewer = Viewer(identity.clone());
    let shown = ImportPage { shell: shell(&viewer, &worker).await?, ..ImportPage::default() };
    if text.trim().is_empty() {
        let problem = Problem::new("Choose a file, or paste its lines.");
        let shown = ImportPage { problem, ..shown };
        return Ok(shown.problem.answer(&shown));
    }
    let entries = match import::read(text.as_bytes()) {
        Ok(entries) => entries,
        Err(bad) => {
            let shown = ImportPage { bad, text, ..shown };
            return Ok(templates::answer(HttpResponse::BadRequest(), &shown));
        }
    };
    let newest = prices::newest(&mut worker.shared.pool.reader().await?).await?;
    let version = newest.map_or(0, |(id, _)| id);
    let stale = apply && agreed != Some(version);
    let imported = run(&request, &worker, &identity, entries, !apply || stale).await?;
    if apply && !stale {
        return Ok(see("/admin/costs?done=imported"));
    }
    Ok(page(&ImportPage { preview: Some(Preview::new(imported, version)), stale, text, ..shown }))
}

async fn run(
    request: &HttpRequest,
    worker: &Worker,
    by: &Identity,
    entries: Vec<Entry>,
    dry_run: bool,
) -> Result<Imported, ApiError> {
    let origin = surface::origin(request, Some(by));
    let mut conn = worker.shared.pool.writer().await?;
    Ok(ledger::import(&mut conn, entries, dry_run, &origin).await?)
}
