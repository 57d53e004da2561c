//! `/admin/health`: how every part of this instance is.

use std::{collections::BTreeMap, sync::Arc};

use actix_web::{HttpResponse, web::Data};
use askama::Template;

use crate::{
    db::{self, Connections, Versions},
    health::CheckResult,
    jobs,
    routes::{
        error::ApiError,
        health,
        pages::{AdminViewer, page},
    },
    state::Worker,
    templates::{Place, Shell, show},
};

#[derive(Template)]
#[template(path = "admin/health.html")]
struct HealthPage {
    shell: Shell,
    condition: &'static str,
    checks: Arc<BTreeMap<&'static str, CheckResult>>,
    instance: String,
    uptime_ms: Option<i64>,
    workers: i64,
    database: &'static str,
    versions: Versions,
    connections: Vec<(&'static str, Connections)>,
    journal: Option<JournalState>,
    /// Identities that are remembered, and how many may be.
    identities: (i64, i64),
}

impl HealthPage {
    /// The service is ready, and a part of it is not well: within its grace, or one that calls do without.
    fn lacks_something(&self) -> bool {
        self.checks.values().any(|check| check.status != "ok")
    }
}

struct JournalState {
    waiting: i64,
    bytes: u64,
    max_bytes: u64,
    refusing: bool,
}

/// `GET /admin/health`
pub async fn show(admin: AdminViewer, worker: Data<Worker>) -> Result<HttpResponse, ApiError> {
    let shared = &worker.shared;
    let connections = shared.pool.connections();
    let mut conn = shared.pool.reader().await?;
    let journal = shared.journal.as_ref().map(|journal| JournalState {
        waiting: whole(journal.depth()),
        bytes: journal.bytes(),
        max_bytes: journal.max_bytes(),
        refusing: journal.is_refusing(),
    });
    let (held, most) = shared.actors.known.size();
    Ok(page(&HealthPage {
        shell: admin.0.shell(&mut conn, &worker, Place::AdminHealth).await?,
        condition: health::condition(shared),
        checks: shared.health.results(),
        instance: jobs::instance(),
        uptime_ms: i64::try_from(shared.started.elapsed().as_millis()).ok(),
        workers: i64::try_from(shared.server.worker_count()).unwrap_or(i64::MAX),
        database: shared.pool.kind(),
        versions: db::versions(&mut conn).await?,
        connections,
        journal,
        identities: (whole(held), whole(most)),
    }))
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// `1.5 MiB`.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        rest => format!("{}.{rest} {name}", tenths / 10),
    }
}

impl JournalState {
    fn bytes(&self) -> String {
        size(self.bytes)
    }

    fn max_bytes(&self) -> String {
        size(self.max_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_told_in_the_largest_unit() {
        for (bytes, told) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1 << 20, "1 MiB"),
            ((1 << 20) + (1 << 19), "1.5 MiB"),
            (1 << 30, "1 GiB"),
            (u64::MAX, "17179869184 GiB"),
        ] {
            assert_eq!(size(bytes), told);
        }
    }
}
