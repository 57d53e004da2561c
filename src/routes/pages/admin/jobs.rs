//! `/admin/jobs`: what runs by itself, how it went, and running it now.

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Data, Path, Query},
};
use askama::Template;

use super::list::page_with;
use crate::{
    db::jobs::recent,
    routes::{
        api::jobs::{self, JobEntry, RunEntry},
        csrf::SignedByAdmin,
        error::{ApiError, Code},
        pages::{
            AdminViewer, Problem, Viewer, see,
            sessions::{Done, Nothing},
        },
    },
    state::Worker,
    templates::{Place, Shell, show},
};

/// Runs that are listed.
const RECENT: i64 = 25;

#[derive(Template)]
#[template(path = "admin/jobs.html")]
struct JobsPage {
    shell: Shell,
    jobs: Vec<JobEntry>,
    /// With the names of their jobs.
    runs: Vec<(String, RunEntry)>,
    problem: Problem,
}

/// `GET /admin/jobs`
pub async fn list(
    admin: AdminViewer,
    query: Query<Done>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    let started = query.done.as_deref() == Some("started");
    let notice = started.then_some("The job is started. How it goes is told below.");
    show_with(admin.0, &worker, notice, Problem::default()).await
}

async fn show_with(
    viewer: Viewer,
    worker: &Worker,
    notice: Option<&'static str>,
    problem: Problem,
) -> Result<HttpResponse, ApiError> {
    let jobs = jobs::all(worker).await?;
    let mut conn = worker.shared.pool.reader().await?;
    let runs = recent(&mut conn, RECENT).await?;
    let shell = viewer.shell(&mut conn, worker, Place::AdminJobs).await?.with_notice(notice);
    let runs = runs.into_iter().map(|run| (run.job.clone(), RunEntry::from(run))).collect();
    let page = JobsPage { shell, jobs, runs, problem };
    Ok(page_with(&page.problem, StatusCode::CONFLICT, &page))
}

impl JobsPage {
    fn is_running(&self) -> bool {
        self.jobs.iter().any(JobEntry::is_running)
    }
}

impl JobEntry {
    pub fn is_running(&self) -> bool {
        self.last_run.as_ref().is_some_and(RunEntry::is_running)
    }

    /// Whether it removes for good what is older than the settings say.
    pub fn removes(&self) -> bool {
        matches!(self.name, "usage_cleanup" | "audit_retention")
    }
}

impl RunEntry {
    pub fn is_running(&self) -> bool {
        self.finished_at.is_none()
    }

    /// The look of the badge of how it went.
    pub fn mood(&self) -> &'static str {
        match self.outcome.as_str() {
            "success" => "good",
            "failed" => "bad",
            "running" => "",
            _ => "warn",
        }
    }

    pub fn took_ms(&self) -> Option<i64> {
        Some((self.finished_at? - self.started_at).num_milliseconds().max(0))
    }
}

/// `POST /admin/jobs/{name}/run`
pub async fn run(
    request: HttpRequest,
    signed: SignedByAdmin<Nothing>,
    path: Path<String>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    match jobs::start(&request, &worker, &signed.identity, &path).await {
        Ok(_run_id) => Ok(see("/admin/jobs?done=started")),
        Err(error) if error.code == Code::Conflict => {
            show_with(Viewer(signed.identity), &worker, None, Problem::of(error)?).await
        }
        Err(error) => Err(error),
    }
}
