//! `/api/admin/jobs`: what runs by itself, how it went, and running it now.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use paperclip::actix::{
    Apiv2Schema, api_v2_operation,
    web::{Json, Path, Query},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    actors::summary::Start,
    auth::Identity,
    db::{
        self, Timestamp,
        audit::{self, Event},
        jobs::JobRun,
    },
    jobs::{self, Job, JobError},
    routes::{
        body::Body,
        error::{ApiError, Code},
        extract::Admin,
        surface,
    },
    state::Worker,
};

/// The jobs.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct JobList {
    pub jobs: Vec<JobEntry>,
}

/// One job, and how it went last.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct JobEntry {
    pub name: &'static str,
    pub description: &'static str,
    /// A cron expression.
    pub schedule: String,
    /// Of the schedule.
    pub timezone: String,
    /// false: nothing runs by itself (jobs.enabled).
    pub enabled: bool,
    #[serde(serialize_with = "super::time_or_null")]
    pub next_run_at: Option<Timestamp>,
    pub last_run: Option<RunEntry>,
}

/// One run.
#[derive(Debug, Serialize, Apiv2Schema)]
pub struct RunEntry {
    pub run_id: i64,
    #[serde(serialize_with = "super::time")]
    pub started_at: Timestamp,
    /// null: it runs.
    #[serde(serialize_with = "super::time_or_null")]
    pub finished_at: Option<Timestamp>,
    /// success, failed, stopped (by a shutdown), interrupted (its process died) or running.
    pub outcome: String,
    /// Rows that it changed.
    pub rows: Option<i64>,
    pub message: Option<String>,
    /// Who ran it.
    pub instance: String,
    /// The time of the schedule that it was for; null = somebody asked for it.
    #[serde(serialize_with = "super::time_or_null")]
    pub slot: Option<Timestamp>,
}

impl From<JobRun> for RunEntry {
    fn from(run: JobRun) -> Self {
        Self {
            run_id: run.id,
            started_at: run.started_at,
            finished_at: run.finished_at,
            outcome: run.outcome.unwrap_or_else(|| "running".to_owned()),
            rows: run.rows,
            message: run.message,
            instance: run.instance,
            slot: run.slot,
        }
    }
}

/// What runs by itself
///
/// When, and how it went last, on whichever instance.
#[api_v2_operation(tags(Administration), operation_id = "listJobs")]
pub async fn list(_admin: Admin, worker: Data<Worker>) -> Result<Json<JobList>, ApiError> {
    Ok(Json(JobList { jobs: all(&worker).await? }))
}

/// All jobs, as they stand.
pub async fn all(worker: &Worker) -> Result<Vec<JobEntry>, ApiError> {
    let rules = &worker.shared.jobs;
    let mut conn = worker.shared.pool.reader().await?;
    let standing = jobs::standing(&mut conn, rules, db::now()).await?;
    let entry = |standing: jobs::Standing| JobEntry {
        name: standing.job.name(),
        description: standing.job.about(),
        schedule: standing.schedule,
        timezone: rules.zone().name().to_owned(),
        enabled: rules.enabled,
        next_run_at: standing.next_run_at,
        last_run: standing.last_run.map(RunEntry::from),
    };
    Ok(standing.into_iter().map(entry).collect())
}

/// Nothing can be said of a run: what is said all the same is refused, rather than not heeded.
#[derive(Debug, serde::Deserialize, Apiv2Schema)]
#[serde(deny_unknown_fields)]
pub struct NothingToSay {}

/// Run a job now
///
/// It is started here and goes on by itself; how it went is in the list.
#[api_v2_operation(tags(Administration), operation_id = "runJob")]
pub async fn run(
    request: HttpRequest,
    admin: Admin,
    path: Path<String>,
    _nothing: Query<NothingToSay>,
    body: Body<NothingToSay>,
    worker: Data<Worker>,
) -> Result<HttpResponse, ApiError> {
    body.read().await?;
    let run_id = start(&request, &worker, &admin.0, &path).await?;
    Ok(HttpResponse::Accepted().json(json!({ "run_id": run_id })))
}

/// Starts a job. Answers the run's id.
pub async fn start(
    request: &HttpRequest,
    worker: &Worker,
    by: &Identity,
    name: &str,
) -> Result<i64, ApiError> {
    let Some(job) = Job::named(name) else {
        let names: Vec<&str> = Job::ALL.into_iter().map(Job::name).collect();
        let message = format!("There is no such job; there are {}.", names.join(", "));
        return Err(ApiError::new(Code::NotFound, message));
    };
    let origin = surface::origin(request, Some(by));
    let event = Event {
        object: format!("job:{}", job.name()),
        ..Event::new(db::now(), "job_run_asked", &origin)
    };
    audit::record(&mut worker.shared.pool.writer().await?, event).await?;
    let scheduler = worker.shared.actors.summary.address();
    let started = scheduler.send(Start(job)).await.map_err(|error| {
        ApiError::new(Code::Internal, "The job could not be started.").caused_by(error)
    })?;
    match started {
        Ok(run_id) => Ok(run_id),
        Err(JobError::Running { holder, .. }) => {
            let message = format!("This job runs already, on {holder}.");
            Err(ApiError::new(Code::Conflict, message))
        }
        Err(JobError::Stopped) => {
            Err(ApiError::new(Code::ShuttingDown, "The service is stopping. Try again."))
        }
        Err(JobError::Database(error)) => Err(error.into()),
    }
}
